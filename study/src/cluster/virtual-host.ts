/**
 * The memory of one machine's host in virtual time: keeps KV blocks that left the caches of its devices, in DRAM and then
 * NVMe, and lends them again. As the real host agent it pulls what it is offered and wants, and forgets what was used
 * longest ago.
 *
 * H1 No memory holds more blocks than it has room for. H2 What is lent stays until it is given back.
 */
import { LeastRecentlyUsed } from '@kvasir/agent/core/eviction-policy'
import type { BlockHashes } from '@kvasir/coordinator/core/block-hashes'
import type { DeviceFacts, DeviceRef, TierLoad } from '@kvasir/coordinator/core/facts'
import { wordsOfTexts } from './block-names.js'
import type { PlannedMachine } from './cluster-plan.js'
import { Party } from './party.js'
import { SharedLink } from './shared-links.js'
import type { VirtualAgent } from './virtual-agent.js'
import { hostFacts, modelNames } from './virtual-facts.js'
import { type KvSource, type Lent, NOTHING_LENT, type World } from './world.js'

const REPORT_MS = 500
/** Bytes on their way into it from one device; more are dropped, as nobody waits for them. */
const STAGING_BYTES_MAX = 1 << 30

interface HostTier {
  readonly name: string
  readonly blocksMax: number
  readonly link: SharedLink
  readonly policy: LeastRecentlyUsed
  /** Not lent ones are in the policy. */
  readonly blocks: Map<string, { loans: number }>
  lookups: number
  hits: number
  inBlocks: number
  outBlocks: number
}

export class VirtualHost extends Party implements KvSource {
  readonly facts: DeviceFacts
  readonly ref: DeviceRef
  readonly uplinks: readonly SharedLink[] = []
  readonly downlinks: readonly SharedLink[]
  readonly latencyMs = 0
  readonly machine: string
  kvSequence = 0
  readonly #tiers: readonly HostTier[]
  readonly #loans = new Map<number, readonly string[]>()
  readonly #stagedBytes = new Map<string, number>()
  readonly #coming = new Set<string>()
  #lastLoan = 0
  #reports = 0
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
    this.#tiers = planned.hostTiers.map(({ name, bytes, bytesPerSecond }) => ({
      name,
      blocksMax: Math.floor(bytes / this.blockBytes),
      link: new SharedLink(`${this.id} ${name}`, bytesPerSecond / 1_000),
      policy: new LeastRecentlyUsed(),
      blocks: new Map(),
      ...{ lookups: 0, hits: 0, inBlocks: 0, outBlocks: 0 },
    }))
    this.downlinks = this.#tiers.slice(0, 1).map(({ link }) => link)
  }

  get blockBytes(): number {
    return this.world.plan.wireBytesPerToken * this.world.plan.blockTokens
  }

  begin(firstReportMs: number): void {
    const { network, queue } = this.world
    const coordinator = this.world.coordinator()
    network.publish(this, coordinator, 'advertised', () => coordinator.advertised(this.facts))
    queue.after(firstReportMs, () => this.#report())
  }

  /** Blocks leave the cache of one of its devices. */
  offer(from: VirtualAgent, names: readonly string[]): void {
    const { network, queue, links } = this.world
    if (this.isDead || this.#tiers.length === 0) return
    const call = network.call(from, this, 'offer', () => {
      const room = STAGING_BYTES_MAX - (this.#stagedBytes.get(from.id) ?? 0)
      const wanted = names.filter((name) => !this.#coming.has(name) && !this.#has(name))
      const taken = wanted.slice(0, Math.max(0, Math.floor(room / this.blockBytes)))
      if (taken.length === 0) {
        network.answer(call, 'declined', () => {}, true)
        return
      }
      for (const name of taken) this.#coming.add(name)
      const bytes = taken.length * this.blockBytes
      this.#stagedBytes.set(from.id, STAGING_BYTES_MAX - room + bytes)
      const path = this.world.path(from, this)
      const flow = links.open(path.links, () => {
        queue.after(path.latencyMs, () => {
          for (const name of taken) this.#coming.delete(name)
          this.#stagedBytes.set(from.id, (this.#stagedBytes.get(from.id) ?? 0) - bytes)
          if (this.isDead) return
          from.meter.sentBytes += bytes
          this.receivedBytes += bytes
          this.#keep(taken)
          network.answer(call, 'taken', () => {}, true)
        })
      })
      links.close(flow, bytes)
    })
  }

  lend(names: readonly string[]): Lent {
    const held: string[] = []
    const through = new Set<SharedLink>()
    for (const name of names) {
      const tier = this.#tiers.find(({ blocks }) => blocks.has(name))
      if (tier === undefined) break
      tier.hits += 1
      tier.outBlocks += 1
      through.add(tier.link)
      const block = tier.blocks.get(name)
      if (block) block.loans += 1
      if (block?.loans === 1) tier.policy.forget(name)
      held.push(name)
    }
    const [first] = this.#tiers
    if (first) first.lookups += names.length
    if (held.length === 0) return NOTHING_LENT
    this.#lastLoan += 1
    this.#loans.set(this.#lastLoan, held)
    return { loan: this.#lastLoan, count: held.length, through: [...through] }
  }

  giveBack(loan: number): void {
    // From the tail to the head: a block without those before it is of no use.
    for (const name of [...(this.#loans.get(loan) ?? [])].reverse()) {
      const tier = this.#tiers.find(({ blocks }) => blocks.has(name))
      const block = tier?.blocks.get(name)
      if (tier === undefined || block === undefined) continue
      block.loans -= 1
      if (block.loans === 0) tier.policy.touch(name)
    }
    this.#loans.delete(loan)
  }

  sent(bytes: number): void {
    this.sentBytes += bytes
  }

  snapshotHashes(): BlockHashes {
    return wordsOfTexts(this.#tiers.flatMap(({ blocks }) => [...blocks.keys()]))
  }

  tierLoads(): TierLoad[] {
    const { blockBytes } = this
    return this.#tiers.map(({ name, blocks, blocksMax, lookups, hits, inBlocks, outBlocks }) => ({
      name,
      leasedBytes: 0,
      capacityBytes: blocksMax * blockBytes,
      cachedBytes: blocks.size * blockBytes,
      lookups,
      hits,
      inBytes: inBlocks * blockBytes,
      outBytes: outBlocks * blockBytes,
      readBytes: 0,
      droppedBlocks: 0,
    }))
  }

  #has(name: string): boolean {
    return this.#tiers.some(({ blocks }) => blocks.has(name))
  }

  /** Into the nearest memory; what that has no room for goes on to the next. */
  #keep(names: readonly string[]): void {
    const removed: string[] = []
    let moving: readonly string[] = names
    for (const tier of this.#tiers) {
      const leaving: string[] = []
      for (const name of moving) {
        while (tier.blocks.size >= tier.blocksMax) {
          const victim = tier.policy.victim()
          if (victim === undefined) break
          tier.policy.forget(victim)
          tier.blocks.delete(victim)
          leaving.push(victim)
        }
        if (tier.blocks.size >= tier.blocksMax) leaving.push(name)
        else {
          tier.blocks.set(name, { loans: 0 })
          tier.policy.touch(name)
          tier.inBlocks += 1
        }
      }
      moving = leaving
    }
    const gone = new Set(moving)
    const stored = names.filter((name) => !gone.has(name))
    for (const name of moving) if (!names.includes(name)) removed.push(name)
    this.#tell(stored, removed)
  }

  #tell(stored: readonly string[], removed: readonly string[]): void {
    if (stored.length === 0 && removed.length === 0) return
    const { network, plan } = this.world
    this.kvSequence += 1
    const coordinator = this.world.coordinator()
    const change = {
      ...this.ref,
      sequence: this.kvSequence,
      stored: wordsOfTexts(stored),
      removed: wordsOfTexts(removed),
      variant: modelNames(plan).variant,
      tier: this.#tiers[0]?.name ?? '',
    }
    network.publish(this, coordinator, 'kv', () => coordinator.kvChanged(change))
  }

  #report(): void {
    const { network, queue } = this.world
    if (this.isDead) return
    queue.after(REPORT_MS, () => this.#report())
    if (this.stalledUntilMs > queue.nowMs) return
    this.#reports += 1
    const coordinator = this.world.coordinator()
    const load = {
      ...this.ref,
      sequence: this.#reports,
      ...{
        decodeSlotsUsed: 0,
        prefillTokensWaiting: 0,
        leases: 0,
        draining: false,
        models: [],
        arriving: [],
      },
      tiers: this.tierLoads(),
      kvSequence: this.kvSequence,
    }
    network.publish(this, coordinator, 'load', () => coordinator.reported(load))
    if (this.#reports % 8 === 0) {
      network.publish(this, coordinator, 'advertised', () => coordinator.advertised(this.facts))
    }
  }
}
