/**
 * The KV of one prompt on its way from the device that computes it: it flows while the prompt is prefilled, in groups of
 * merged layers, once its receiver has opened the transfer.
 *
 * O1 It ends once: `arrived` at the receiver and `sent` at the sender, or `failed` at both.
 * O2 While a chunk of n tokens is computed, its bytes become available evenly, one group of layers late; the last group with the
 *    chunk's end.
 */
import { SHARED_BOUNDS } from '@kvasir/agent/core/shared-bounds'
import { KEEPALIVE_MS } from './network.js'
import type { Flow } from './shared-links.js'
import type { VirtualAgent } from './virtual-agent.js'
import type { VirtualCall } from './virtual-call.js'

/** Of about a megabyte, from a device's memory. */
const MESSAGE_READ_MS = 10

export interface KvReceiver {
  readonly agent: VirtualAgent
  readonly call: VirtualCall
  /** Tokens that it has already. */
  readonly heldTokens: number
  arrived(): void
}

export interface KvTimes {
  readonly bytes: number
  /** While bytes were on the way: the last one's latency included, as a real sender's, who waits for acknowledgements. */
  readonly busyMs: number
  /** From prefill's end until all had left. */
  readonly exposedMs: number
}

interface Chunk {
  readonly start: number
  readonly count: number
  readonly startMs: number
  readonly ms: number
}

export class OutgoingKv {
  #flow: Flow | undefined
  #receiver: KvReceiver | undefined
  #counter: bigint | undefined
  #computedTokens = 0
  #chunk: Chunk | undefined
  #prefillEndMs: number | undefined
  #bytes = 0
  #isOver = false

  constructor(
    readonly agent: VirtualAgent,
    readonly promptTokens: number,
    readonly on: { sent(times: KvTimes, blocks: number): void; failed(receiverId: string): void },
  ) {}

  get isClaimed(): boolean {
    return this.#receiver !== undefined
  }

  open(receiver: KvReceiver): void {
    this.#receiver = receiver
    this.#begin()
  }

  admitted(counter: bigint): void {
    this.#counter = counter
    this.#begin()
  }

  /** KV of the first `tokens` tokens is there. */
  present(tokens: number): void {
    const before = this.#computedTokens
    this.#computedTokens = Math.max(before, tokens)
    this.#supply(this.#bytesOf(before, tokens), 0)
  }

  chunkStarts(start: number, count: number, startMs: number, ms: number): void {
    const chunk = { start, count, startMs, ms }
    this.#chunk = chunk
    const { queue } = this.agent.world
    // The first group of layers is there only when it is computed.
    queue.at(startMs + ms * this.#groupShare, () => {
      if (this.#chunk === chunk) this.#supply(0, this.#bytesOf(start, start + count) / ms)
    })
  }

  chunkEnds(computedTokens: number, isCancelled: boolean): void {
    const chunk = this.#chunk
    this.#chunk = undefined
    if (chunk === undefined || isCancelled) {
      this.#supply(0, 0)
      return
    }
    this.#computedTokens = computedTokens
    this.#supply(this.#bytesOf(chunk.start, computedTokens) * this.#groupShare, 0)
  }

  prefillEnded(): void {
    const { queue } = this.agent.world
    this.#prefillEndMs = queue.nowMs
    if (this.#flow) this.agent.world.links.close(this.#flow)
    if (!this.isClaimed) queue.after(SHARED_BOUNDS.pullMs, () => this.isClaimed || this.fail())
  }

  /** Ends it for both sides. */
  fail(): void {
    if (this.#isOver) return
    this.#finish()
    this.on.failed(this.#receiver?.agent.id ?? '')
  }

  /** The sender's sequence has ended; the message that is being read is read to its end. */
  drop(): void {
    if (this.#isOver) return
    const { queue } = this.agent.world
    this.#finish((unpin) => queue.after(MESSAGE_READ_MS, unpin))
  }

  #begin(): void {
    const { world } = this.agent
    if (this.#flow || this.#isOver || this.#receiver === undefined || this.#counter === undefined) return
    const { links, latencyMs } = world.path(this.agent, this.#receiver.agent)
    this.agent.apply({ type: 'pin', counter: this.#counter })
    this.#flow = world.links.open(links, () => this.#drained(latencyMs))
    const chunk = this.#chunk
    let bytes = this.#bytesOf(0, this.#computedTokens)
    let rate = 0
    if (chunk !== undefined) {
      const share = (world.queue.nowMs - chunk.startMs) / chunk.ms - this.#groupShare
      const chunkBytes = this.#bytesOf(chunk.start, chunk.start + chunk.count)
      if (share > 0) bytes += chunkBytes * share
      if (share > 0) rate = chunkBytes / chunk.ms
    }
    this.#bytes = 0
    this.#supply(bytes, rate)
    if (this.#prefillEndMs !== undefined) world.links.close(this.#flow)
  }

  #supply(bytes: number, bytesPerMs: number): void {
    if (this.#flow && !this.#isOver) this.agent.world.links.supply(this.#flow, bytes, bytesPerMs)
  }

  #drained(latencyMs: number): void {
    const { queue } = this.agent.world
    const receiver = this.#receiver
    const flow = this.#flow
    if (this.#isOver || receiver === undefined || flow === undefined) return
    this.#bytes = flow.sentBytes
    const exposedMs = queue.nowMs - (this.#prefillEndMs ?? queue.nowMs)
    const times = { bytes: this.#bytes, busyMs: flow.busyMs + latencyMs, exposedMs }
    this.agent.meter.sentBytes += this.#bytes
    receiver.agent.meter.receivedBytes += this.#bytes
    const { network, plan } = this.agent.world
    const arrive = () => network.answer(receiver.call, 'kv', () => receiver.arrived(), true)
    queue.after(latencyMs, arrive)
    const { blockTokens } = plan
    const blocks = Math.ceil(this.promptTokens / blockTokens) - Math.floor(receiver.heldTokens / blockTokens)
    // The acknowledgement takes the same way back.
    queue.after(2 * latencyMs + 2 * plan.messageMs, () => {
      if (this.#isOver || this.agent.isDead) return
      if (!receiver.agent.isDead) {
        this.#finish()
        this.on.sent(times, blocks)
        return
      }
      queue.after(KEEPALIVE_MS, () => this.fail())
    })
  }

  #finish(soon = (unpin: () => void) => unpin()): void {
    this.#isOver = true
    const counter = this.#counter
    if (this.#flow === undefined || counter === undefined) return
    this.agent.world.links.cancel(this.#flow)
    soon(() => {
      if (!this.agent.isDead) this.agent.apply({ type: 'unpin', counter })
    })
  }

  get #groupShare(): number {
    const { mergeLayers, model } = this.agent.world.plan
    return Math.min(1, mergeLayers / model.layers)
  }

  /** Of tokens that the receiver lacks; the last block is sent whole. */
  #bytesOf(from: number, to: number): number {
    const { blockTokens, wireBytesPerToken } = this.agent.world.plan
    const sentTokens = (tokens: number) =>
      tokens < this.promptTokens ? tokens : Math.ceil(tokens / blockTokens) * blockTokens
    const held = this.#receiver?.heldTokens ?? 0
    return Math.max(0, sentTokens(to) - Math.max(sentTokens(from), held)) * wireBytesPerToken
  }
}
