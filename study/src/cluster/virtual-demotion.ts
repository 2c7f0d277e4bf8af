/**
 * Hands blocks that leave a virtual device's cache to the host of its machine, as the real agent does (agent/src/demotion.ts).
 *
 * D1 Never more than the device has room for is staged, and nothing for longer than a real agent stages it: what does not fit or
 *    is not fetched is dropped. A block that is larger than all the room goes alone, since a study may have blocks of any size.
 */
import { SHARED_BOUNDS, stagingBytes } from '@kvasir/agent/core/shared-bounds'
import type { VirtualAgent } from './virtual-agent.js'
import type { VirtualHost } from './virtual-host.js'

export class VirtualDemotion {
  #stagedBytes = 0
  readonly #stagingBytesMax: number

  constructor(
    readonly agent: VirtualAgent,
    readonly host: () => VirtualHost | undefined,
  ) {
    const { kvMemories } = agent.planned.model
    this.#stagingBytesMax = stagingBytes(kvMemories.reduce((sum, { bytes }) => sum + bytes, 0))
  }

  get stagedBytes(): number {
    return this.#stagedBytes
  }

  demote(names: readonly string[]): void {
    const host = this.host()
    if (host === undefined) return
    const room = Math.floor((this.#stagingBytesMax - this.#stagedBytes) / host.blockBytes)
    const staged = Math.min(names.length, Math.max(0, room, this.#stagedBytes === 0 ? 1 : 0))
    if (staged === 0) return
    // As by a real agent: the beginnings of sequences, which leave last.
    const taken = names.slice(names.length - staged)
    const { network, queue } = this.agent.world
    const bytes = taken.length * host.blockBytes
    this.#stagedBytes += bytes
    let isStaged = true
    const release = () => {
      if (isStaged) this.#stagedBytes -= bytes
      isStaged = false
    }
    let leave: (() => void) | undefined
    const call = network.call(
      this.agent,
      host,
      'offer',
      (asked) => {
        // A message that came twice is one offer.
        leave ??= host.offered(this.agent, taken, (answer) => network.answer(asked, answer, release, true))
      },
      { broken: release, gone: () => leave?.() },
    )
    queue.after(SHARED_BOUNDS.stagingMs, () => {
      if (!isStaged || this.agent.isDead) return
      network.cancel(call)
      release()
    })
  }
}
