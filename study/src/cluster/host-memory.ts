/**
 * The memories of one machine's host that keep KV blocks, nearest first: DRAM, then perhaps NVMe. Blocks come into the
 * nearest; what was used longest ago goes on to the next, and from the last it is forgotten.
 *
 * M1 No memory ever holds more blocks than it has room for: who brings some claims room, and is told when it is there.
 * M2 A block that moves is where it was, and is read there, until all its bytes are in the next memory. Its way takes both
 *    memories' bandwidth, shared with all that reads and writes them.
 * M3 What is lent stays until it is given back.
 */
import { LeastRecentlyUsed } from '@kvasir/agent/core/eviction-policy'
import type { TierLoad } from '@kvasir/coordinator/core/facts'
import type { PlannedMachine } from './cluster-plan.js'
import { SharedLink, type SharedLinks } from './shared-links.js'
import { type Lent, NOTHING_LENT } from './world.js'

interface HeldBlock {
  loans: number
  isLeaving: boolean
}

interface HostTier {
  readonly name: string
  readonly blocksMax: number
  readonly link: SharedLink
  /** Of blocks that are neither lent nor leave. */
  readonly policy: LeastRecentlyUsed
  readonly blocks: Map<string, HeldBlock>
  /** Blocks that are to come, and those of `blocks` that are on their way out. */
  claimed: number
  leaving: number
  lookups: number
  hits: number
  inBlocks: number
  outBlocks: number
  droppedBlocks: number
}

export class HostMemory {
  readonly #tiers: readonly HostTier[]
  readonly #loans = new Map<number, readonly string[]>()
  #lastLoan = 0

  /** `dropped` hears of blocks that are held no more. */
  constructor(
    id: string,
    planned: PlannedMachine['hostTiers'],
    readonly blockBytes: number,
    readonly links: SharedLinks,
    readonly dropped: (names: readonly string[]) => void,
  ) {
    this.#tiers = planned.map(({ name, bytes, bytesPerSecond }) => ({
      name,
      blocksMax: Math.floor(bytes / blockBytes),
      link: new SharedLink(`${id} ${name}`, bytesPerSecond / 1_000),
      policy: new LeastRecentlyUsed(),
      blocks: new Map(),
      ...{ claimed: 0, leaving: 0, lookups: 0, hits: 0, inBlocks: 0, outBlocks: 0, droppedBlocks: 0 },
    }))
  }

  /** What a block passes that comes in. */
  get entry(): readonly SharedLink[] {
    return this.#tiers.slice(0, 1).map(({ link }) => link)
  }

  get names(): readonly string[] {
    return this.#tiers.flatMap(({ blocks }) => [...blocks.keys()])
  }

  has(name: string): boolean {
    return this.#tierOf(name) !== undefined
  }

  /** Of so many blocks, those that can be given room now or soon. */
  roomFor(count: number, at = 0): number {
    const tier = this.#tiers[at]
    return tier === undefined ? 0 : Math.min(count, freeOf(tier) + tier.policy.size)
  }

  /** Room for `count` blocks, of which `roomFor` knows; `ready` once it is there, perhaps at once. */
  claim(count: number, ready: () => void, at = 0): void {
    const tier = this.#tiers[at]
    if (tier === undefined) return
    const victims: string[] = []
    for (let short = count - freeOf(tier); short > 0; short -= 1) {
      const victim = tier.policy.victim()
      if (victim === undefined) break
      tier.policy.forget(victim)
      victims.push(victim)
    }
    tier.claimed += count
    const next = this.#tiers[at + 1]
    // The youngest are those worth keeping where not all find room.
    const kept = this.roomFor(victims.length, at + 1)
    const moving = victims.slice(victims.length - kept)
    this.#drop(tier, victims.slice(0, victims.length - kept))
    if (next === undefined || moving.length === 0) {
      ready()
      return
    }
    tier.leaving += moving.length
    for (const name of moving) setLeaving(tier, name)
    const arrive = () => {
      this.#arrive(tier, next, moving)
      ready()
    }
    this.claim(
      moving.length,
      () =>
        this.links.close(this.links.open([tier.link, next.link], arrive), moving.length * this.blockBytes),
      at + 1,
    )
  }

  /** Claimed room that is not needed after all. */
  unclaim(count: number): void {
    const [tier] = this.#tiers
    if (tier) tier.claimed -= count
  }

  /** Blocks have come into room that was claimed for them. */
  keep(names: readonly string[]): void {
    const [tier] = this.#tiers
    if (tier === undefined) return
    this.unclaim(names.length)
    tier.inBlocks += names.length
    for (const name of names) {
      tier.blocks.set(name, { loans: 0, isLeaving: false })
      tier.policy.touch(name)
    }
  }

  /** The longest leading run that is here. A memory is asked for what none nearer has. */
  lend(names: readonly string[]): Lent {
    const held: string[] = []
    const through = new Set<SharedLink>()
    const hits = this.#tiers.map(() => 0)
    for (const name of names) {
      const at = this.#tiers.findIndex(({ blocks }) => blocks.has(name))
      const tier = this.#tiers[at]
      const block = tier?.blocks.get(name)
      if (tier === undefined || block === undefined) break
      hits[at] = (hits[at] ?? 0) + 1
      through.add(tier.link)
      block.loans += 1
      if (block.loans === 1) tier.policy.forget(name)
      held.push(name)
    }
    let asked = names.length
    this.#tiers.forEach((tier, at) => {
      const found = hits[at] ?? 0
      tier.lookups += asked
      tier.hits += found
      tier.outBlocks += found
      asked -= found
    })
    if (held.length === 0) return NOTHING_LENT
    this.#lastLoan += 1
    this.#loans.set(this.#lastLoan, held)
    return { loan: this.#lastLoan, count: held.length, through: [...through] }
  }

  giveBack(loan: number): void {
    // From the tail to the head: a block without those before it is of no use.
    for (const name of [...(this.#loans.get(loan) ?? [])].reverse()) {
      const tier = this.#tierOf(name)
      const block = tier?.blocks.get(name)
      if (tier === undefined || block === undefined) continue
      block.loans -= 1
      if (block.loans === 0 && !block.isLeaving) tier.policy.touch(name)
    }
    this.#loans.delete(loan)
  }

  loads(): TierLoad[] {
    const { blockBytes } = this
    return this.#tiers.map((tier) => ({
      name: tier.name,
      leasedBytes: 0,
      capacityBytes: tier.blocksMax * blockBytes,
      cachedBytes: tier.blocks.size * blockBytes,
      lookups: tier.lookups,
      hits: tier.hits,
      inBytes: tier.inBlocks * blockBytes,
      outBytes: tier.outBlocks * blockBytes,
      readBytes: 0,
      droppedBlocks: tier.droppedBlocks,
    }))
  }

  #tierOf(name: string): HostTier | undefined {
    return this.#tiers.find(({ blocks }) => blocks.has(name))
  }

  #arrive(from: HostTier, to: HostTier, names: readonly string[]): void {
    from.leaving -= names.length
    from.outBlocks += names.length
    to.claimed -= names.length
    to.inBlocks += names.length
    for (const name of names) {
      const loans = from.blocks.get(name)?.loans ?? 0
      from.blocks.delete(name)
      to.blocks.set(name, { loans, isLeaving: false })
      if (loans === 0) to.policy.touch(name)
    }
  }

  #drop(tier: HostTier, names: readonly string[]): void {
    if (names.length === 0) return
    for (const name of names) tier.blocks.delete(name)
    tier.droppedBlocks += names.length
    this.dropped(names)
  }
}

/** Free now, or once what leaves has left; not claimed by anyone. */
function freeOf({ blocksMax, blocks, claimed, leaving }: HostTier): number {
  return blocksMax - blocks.size - claimed + leaving
}

function setLeaving(tier: HostTier, name: string): void {
  const block = tier.blocks.get(name)
  if (block) block.isLeaving = true
}
