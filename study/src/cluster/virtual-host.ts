/**
 * The memory of one machine's host in virtual time: keeps KV blocks that left the caches of its devices, in DRAM and then
 * NVMe, and lends them again. As the real host agent it pulls what it is offered and wants, and forgets what was used
 * longest ago.
 *
 * H1 A block counts as held, and the coordinator hears of it, once all its bytes are here.
 */
import type { BlockHashes } from '@kvasir/coordinator/core/block-hashes'
import type { DeviceFacts, DeviceRef, LoadFacts, TierLoad } from '@kvasir/coordinator/core/facts'
import { wordsOfTexts } from './block-names.js'
import type { PlannedMachine } from './cluster-plan.js'
import { DeviceNews } from './device-news.js'
import { HostMemory } from './host-memory.js'
import { Party } from './party.js'
import type { Flow, SharedLink } from './shared-links.js'
import type { VirtualAgent } from './virtual-agent.js'
import { hostFacts } from './virtual-facts.js'
import type { KvSource, Lent, World } from './world.js'

export class VirtualHost extends Party implements KvSource {
  readonly facts: DeviceFacts
  readonly ref: DeviceRef
  readonly uplinks: readonly SharedLink[] = []
  readonly downlinks: readonly SharedLink[]
  readonly latencyMs = 0
  readonly machine: string
  readonly news: DeviceNews
  readonly #memory: HostMemory
  readonly #coming = new Set<string>()
  receivedBytes = 0
  sentBytes = 0

  constructor(
    readonly world: World,
    readonly planned: PlannedMachine,
    incarnation: bigint,
  ) {
    super(`host-${planned.id}`)
    this.machine = planned.id
    this.facts = hostFacts(world.plan, planned, this.id, String(incarnation))
    this.ref = { deviceId: this.id, incarnation: String(incarnation) }
    this.news = new DeviceNews(world, this, (sequence) => this.#loadNow(sequence))
    this.#memory = new HostMemory(this.id, planned.hostTiers, this.blockBytes, world.links, (removed) =>
      this.news.kvChanged([], removed),
    )
    this.downlinks = this.#memory.entry
  }

  get blockBytes(): number {
    return this.world.plan.wireBytesPerToken * this.world.plan.blockTokens
  }

  begin(firstReportMs: number): void {
    this.news.begin(firstReportMs)
  }

  /**
   * Blocks left the cache of one of its devices and wait there; `answer` once those that it wants are here. What is returned
   * ends it before its time.
   */
  offered(
    from: VirtualAgent,
    names: readonly string[],
    answer: (what: 'taken' | 'declined') => void,
  ): () => void {
    const { queue, links } = this.world
    const memory = this.#memory
    const wanted = names.filter((name) => !this.#coming.has(name) && !memory.has(name))
    const taken = wanted.slice(0, memory.roomFor(wanted.length))
    if (taken.length === 0) {
      answer('declined')
      return () => {}
    }
    for (const name of taken) this.#coming.add(name)
    const bytes = taken.length * this.blockBytes
    const path = this.world.path(from, this)
    let isOver = false
    let flow: Flow | undefined
    const end = () => {
      isOver = true
      for (const name of taken) this.#coming.delete(name)
    }
    const arrive = () => {
      if (isOver || this.isDead) return
      end()
      from.meter.sentBytes += bytes
      this.receivedBytes += bytes
      memory.keep(taken)
      this.news.kvChanged(taken, [])
      answer('taken')
    }
    memory.claim(taken.length, () => {
      // Room is given back only where it is: until then others' blocks are in it.
      if (isOver) memory.unclaim(taken.length)
      if (isOver || this.isDead) return
      flow = links.open(path.links, () => queue.after(path.latencyMs, arrive))
      links.close(flow, bytes)
    })
    return () => {
      if (isOver) return
      end()
      if (flow === undefined) return
      links.cancel(flow)
      memory.unclaim(taken.length)
    }
  }

  lend(names: readonly string[]): Lent {
    return this.#memory.lend(names)
  }

  giveBack(loan: number): void {
    this.#memory.giveBack(loan)
  }

  sent(bytes: number): void {
    this.sentBytes += bytes
  }

  snapshotHashes(): BlockHashes {
    return wordsOfTexts(this.#memory.names)
  }

  tierLoads(): TierLoad[] {
    return this.#memory.loads()
  }

  #loadNow(sequence: number): LoadFacts {
    return {
      ...this.ref,
      sequence,
      decodeSlotsUsed: 0,
      prefillTokensWaiting: 0,
      tiers: this.tierLoads(),
      leases: 0,
      draining: false,
      models: [],
      arriving: [],
      kvSequence: this.news.kvSequence,
    }
  }
}
