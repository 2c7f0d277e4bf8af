/**
 * Moves pages between the tiers of a device, as its policy plans, between steps.
 *
 * What may move: pages of sequences that decode or are attended to, and cached blocks; never
 * what is guarded, nor what is still being computed or received. Cached blocks have no reads to expect, so they
 * are the first to make room in a near tier; they go to a farther one while that has room,
 * which costs a copy and keeps them, and count as free where nothing farther has.
 */
import { blocksForTokens } from './block-allocator.js'
import type { CoreOptions } from './core-options.js'
import type { DeviceState, Sequence } from './device-state.js'
import { type TierMove, type TierPage, type TierPolicy, tierPolicy } from './tier-policy.js'

/** Most moves between two steps: they are traffic that the next step waits for. */
const MOVES_MAX = 32

/** A page, and the sequences that count its moves. */
interface Movable extends TierPage {
  readonly block: number
  readonly sequences: readonly Sequence[]
}

export class TierMover {
  private readonly policy: TierPolicy
  private readonly bytesPerSecond: readonly number[]

  constructor(private readonly options: CoreOptions) {
    this.policy = tierPolicy(options.tierPolicy)
    this.bytesPerSecond = options.tiers.map(({ bytesPerSecond }) => bytesPerSecond)
  }

  /** Whether anything could ever move. */
  get active(): boolean {
    return this.options.tierPolicy !== 'static' && this.options.tiers.length > 1
  }

  /** To be called between steps. */
  move(state: DeviceState): void {
    const { table } = state.memory
    const asFree = this.cachedAsFree(state)
    const free = asFree.map((counts, tier) => table.freeIn(tier) + (counts ? table.cachedIn(tier) : 0))
    const pages = this.pages(state, asFree)
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
      if (stuck && (scratch === undefined || !table.evictIn(scratch.to))) return
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
      while (counts && table.freeIn(tier) < coming - going && table.evictIn(tier));
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
      for (const { traffic } of page.sequences) {
        const into = traffic[move.to]
        if (into !== undefined) into.movedBytes += this.options.blockBytes
      }
    }
    if (places.size === 0) return waiting
    const from = [...places.keys()]
    table.vacate(from)
    state.memory.moved(places)
    state.emit({ type: 'copy', from, to: [...places.values()] })
    return waiting
  }

  private pages(state: DeviceState, asFree: readonly boolean[]): Movable[] {
    const { memory } = state
    const { table } = memory
    const pages = new Map<number, { -readonly [Name in keyof Movable]: Movable[Name] }>()
    const at = (block: number) => {
      const known = pages.get(block)
      if (known !== undefined) return known
      const idleSteps = Number.POSITIVE_INFINITY
      const fixed = table.isGuarded(block)
      const page = { block, tier: table.tierOf(block), reads: 0, mass: 0, idleSteps, fixed, sequences: [] }
      pages.set(block, page)
      return page
    }
    for (const { counter, sequence: id } of state.facts.values()) {
      const sequence = id === undefined ? undefined : state.sequences.get(id)
      const blocks = memory.blocks(counter)
      if (sequence === undefined || !isSettled(sequence)) {
        for (const block of blocks) at(block).fixed = true
        continue
      }
      const first = memory.firstPage(counter)
      for (let index = 0; index < blocksForTokens(sequence.computedTokens) - first; index += 1) {
        const page = at(blocks[index] ?? 0)
        const heat = state.heat.of(counter, first + index)
        page.reads += heat.reads
        page.mass += heat.mass
        page.idleSteps = Math.min(page.idleSteps, heat.idleSteps)
        page.sequences = [...page.sequences, sequence]
      }
    }
    // Those that would be evicted first are taken for the ones that were idle longest.
    let idleSteps = Number.MAX_SAFE_INTEGER
    for (const block of table.evictableBlocks()) {
      if (asFree[table.tierOf(block)] === false) at(block).idleSteps = idleSteps--
    }
    return [...pages.values()]
  }

  /** Of each tier, whether its cached blocks are given up for others: where they could not go farther. */
  private cachedAsFree({ memory: { table } }: DeviceState): boolean[] {
    const room = this.options.tiers.map((_, tier) => table.freeIn(tier) + table.cachedIn(tier))
    return room.map((_, tier) => room.slice(tier + 1).every((blocks) => blocks === 0))
  }
}

/** All its pages are in place, and no transfer fills them. */
function isSettled({ phase, computedTokens, promptTokens }: Sequence): boolean {
  return phase === 'decoding' || (phase === 'attending' && computedTokens >= promptTokens)
}
