/**
 * Moves pages between the tiers of a device, as its policy plans, between steps.
 *
 * What may move: pages of sequences that decode or are attended to, and cached blocks; never
 * what is guarded, nor what is still being computed or received. Cached blocks have no reads to expect, so they
 * are the first to make room in a near tier; they go to a farther one while that has room,
 * which costs a copy and keeps them, and count as free where nothing farther has.
 */
import type { CoreOptions } from './core-options.js'
import type { DeviceState, Leased, Sequence } from './device-state.js'
import { tierPolicy } from './tier-policies.js'
import type { TierMove, TierPage, TierPolicy } from './tier-policy.js'

/** Most moves between two steps: they are traffic that the next step waits for. */
const MOVES_MAX = 32
/** Planning looks at all pages. With more than this it rests for steps, so that it takes the same of each. */
const PAGES_A_STEP = 1_024

type Movable = { -readonly [Name in keyof TierPage]: TierPage[Name] } & { block: number }

export class TierMover {
  private readonly policy: TierPolicy
  private readonly bytesPerSecond: readonly number[]
  /** Steps in which nothing is planned. */
  private restSteps = 0
  /** Used again for every plan: there are tens of thousands of them. */
  private readonly known: Movable[] = []
  private readonly marks: Uint8Array

  constructor(private readonly options: CoreOptions) {
    this.policy = tierPolicy(options.tierPolicy)
    this.bytesPerSecond = options.tiers.map(({ bytesPerSecond }) => bytesPerSecond)
    this.marks = new Uint8Array(options.tiers.reduce((sum, { blocks }) => sum + blocks, 0))
  }

  /** Whether anything could ever move. */
  get active(): boolean {
    return this.options.tierPolicy !== 'static' && this.options.tiers.length > 1
  }

  /** Calls of `move` from now on that change nothing. */
  get stepsAtRest(): number {
    return Math.max(0, this.restSteps)
  }

  /** As many calls of `move`, while it rests. */
  rest(steps: number): void {
    this.restSteps -= steps
  }

  /** To be called between steps. */
  move(state: DeviceState): void {
    this.restSteps -= 1
    if (this.restSteps >= 0) return
    const { table } = state.memory
    const asFree = this.cachedAsFree(state)
    const free = asFree.map((counts, tier) => table.freeIn(tier) + (counts ? table.cachedIn(tier) : 0))
    const pages = this.pages(state, asFree)
    this.restSteps = Math.floor(pages.length / PAGES_A_STEP)
    const { bytesPerSecond } = this
    const { blockBytes } = this.options
    const moves = this.policy({ pages, free, bytesPerSecond, blockBytes, movesMax: MOVES_MAX })
    this.makeRoom(state, pages, moves, asFree)
    let left = moves
    // Each round makes the moves that have room, and with it room for others.
    while (left.length > 0) {
      const waiting = this.round(state, pages, left)
      // Pages that change places need a free block to begin with.
      const stuck = waiting.length === left.length
      const scratch = waiting.find(({ to }) => asFree[to] === true)
      if (stuck && (scratch === undefined || table.evictIn(scratch.to, 1) === 0)) return
      left = waiting
    }
  }

  /** Evicts what counts as free and is needed in the end. Before any move, since what was moved should not be what goes. */
  private makeRoom(
    state: DeviceState,
    pages: readonly Movable[],
    moves: readonly TierMove[],
    asFree: readonly boolean[],
  ): void {
    const { table } = state.memory
    for (const [tier, counts] of asFree.entries()) {
      const coming = moves.filter(({ to }) => to === tier).length
      const going = moves.filter(({ page }) => pages[page]?.tier === tier).length
      if (counts) table.evictIn(tier, coming - going - table.freeIn(tier))
    }
  }

  /** Makes what moves it can with the blocks that are free now, as one copy; returns the others. */
  private round(state: DeviceState, pages: readonly Movable[], moves: readonly TierMove[]): TierMove[] {
    const { table } = state.memory
    const places = new Map<number, number>()
    const waiting: TierMove[] = []
    for (const move of moves) {
      const page = pages[move.page]
      if (page === undefined) continue
      const place = table.relocate(page.block, move.to)
      if (place === undefined) {
        waiting.push(move)
        continue
      }
      places.set(page.block, place)
      state.counters.add(page.tier, 'outBlocks', 1)
      state.counters.add(move.to, 'inBlocks', 1)
    }
    if (places.size === 0) return waiting
    this.account(state, places)
    const from = [...places.keys()]
    table.vacate(from)
    state.memory.moved(places)
    state.emit({ type: 'copy', from, to: [...places.values()] })
    return waiting
  }

  /** Each sequence counts what was moved of its pages. */
  private account(state: DeviceState, places: ReadonlyMap<number, number>): void {
    const { marks } = this
    marks.fill(0)
    for (const block of places.keys()) marks[block] = 1
    for (const { holding, traffic } of state.sequences.values()) {
      if (holding === undefined) continue
      for (const block of holding.blocks) {
        const place = marks[block] === 1 ? places.get(block) : undefined
        const into = place === undefined ? undefined : traffic[state.memory.table.tierOf(place)]
        if (into !== undefined) into.movedBytes += this.options.blockBytes
      }
    }
  }

  private pages(state: DeviceState, asFree: readonly boolean[]): readonly Movable[] {
    const { memory } = state
    const { table } = memory
    const { known, marks } = this
    const settled: Leased[] = []
    // A transfer fills or reads them, or will.
    marks.fill(0)
    memory.markPinned(marks)
    for (const { counter, sequence: id } of state.facts.values()) {
      const sequence = id === undefined ? undefined : state.sequences.get(id)
      if (sequence !== undefined && isSettled(sequence)) settled.push(sequence)
      else for (const block of memory.blocks(counter)) marks[block] = 1
    }
    let count = 0
    /** Those of several leases, which alone can be met twice. */
    const shared = new Map<number, Movable>()
    for (const { counter, holding, computedTokens } of settled) {
      const { blocks, first } = holding
      const heat = state.heat.of(counter)
      const pages = state.blocksFor(computedTokens) - first
      for (let index = 0; index < pages; index += 1) {
        const block = blocks[index] ?? 0
        const { reads, mass, idleSteps } = heat(first + index)
        const isShared = table.refsOf(block) > 1
        const met = isShared ? shared.get(block) : undefined
        if (met === undefined) {
          const page = pageAt(known, count)
          count += 1
          page.block = block
          page.tier = table.tierOf(block)
          page.fixed = marks[block] === 1 || table.isGuarded(block)
          page.reads = reads
          page.mass = mass
          page.idleSteps = idleSteps
          if (isShared) shared.set(block, page)
        } else {
          met.reads += reads
          met.mass += mass
          met.idleSteps = Math.min(met.idleSteps, idleSteps)
        }
      }
    }
    // Those that would be evicted first are taken for the ones that were idle longest.
    let idleSteps = Number.MAX_SAFE_INTEGER
    for (const block of table.evictableBlocks()) {
      const tier = table.tierOf(block)
      if (asFree[tier] === true) continue
      const page = pageAt(known, count)
      count += 1
      page.block = block
      page.tier = tier
      page.fixed = false
      page.reads = 0
      page.mass = 0
      page.idleSteps = idleSteps
      idleSteps -= 1
    }
    known.length = count
    return known
  }

  /** Of each tier, whether its cached blocks are given up for others: where they could not go farther. */
  private cachedAsFree({ memory: { table } }: DeviceState): boolean[] {
    const room = this.options.tiers.map((_, tier) => table.freeIn(tier) + table.cachedIn(tier))
    return room.map((_, tier) => room.slice(tier + 1).every((blocks) => blocks === 0))
  }
}

/** All its pages are in place, and no transfer fills them. */
function isSettled(sequence: Sequence): sequence is Leased {
  const { phase, computedTokens, promptTokens } = sequence
  return phase === 'decoding' || (phase === 'attending' && computedTokens >= promptTokens)
}

function pageAt(pages: Movable[], index: number): Movable {
  const known = pages[index]
  if (known !== undefined) return known
  const page = { block: 0, tier: 0, fixed: false, reads: 0, mass: 0, idleSteps: 0 }
  pages.push(page)
  return page
}
