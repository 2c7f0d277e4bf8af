/** Leases, shared blocks, loans and eviction against a plain model, over thousands of random histories. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { BlockAllocator, blocksForTokens } from './block-allocator.js'
import { BlockTable, type EvictedBlock } from './block-table.js'
import { LeasedMemory } from './leased-memory.js'
import { LeastRecentBlocks } from './least-recent-blocks.js'

const TIERS = [5, 7]
const CAPACITY_BLOCKS = 12
const CHAIN = Array.from({ length: 8 }, (_, page) => page)

/** Pages of two texts whose first page is the same. */
function hashes(text: number, pages: number): string[] {
  return CHAIN.slice(0, pages).map((page) => (page === 0 ? 'common' : `${text}/${page}`))
}

/** What a careful clerk would write down. */
interface Model {
  issued: bigint
  held: Map<bigint, { text: number; pages: number; full: number; pins: number; ended: boolean }>
  loans: Map<number, number>
}

class Real {
  /** Hashes that left the cache by themselves, in order. */
  readonly evicted: string[] = []
  readonly stored = new Set<string>()
  readonly table = new BlockTable(TIERS, new LeastRecentBlocks(CAPACITY_BLOCKS), (blocks) =>
    this.note(blocks),
  )
  readonly memory = new LeasedMemory(this.table)

  /** Room under a new lease; false where it does not fit. */
  grant(counter: bigint, tokens: number, hashes: readonly string[]): boolean {
    const holding = this.memory.claim(tokens, hashes)
    if (holding !== undefined) this.memory.assign(counter, holding)
    return holding !== undefined
  }

  /** Replays what the table told. */
  settle(): void {
    const changes = this.table.takeChanges()
    for (const hash of changes?.stored ?? []) this.stored.add(hash)
    for (const hash of changes?.removed ?? []) this.stored.delete(hash)
  }

  private note(blocks: readonly EvictedBlock[]): void {
    this.evicted.push(...blocks.map(({ hash }) => hash))
  }
}

type Command = fc.Command<Model, Real>

function check(model: Model, real: Real): void {
  const { table, memory } = real
  real.settle()
  expect([...table.storedHashes()].sort()).toEqual([...real.stored].sort())
  const holders = new Map<number, string[]>()
  for (const [counter, { ended, text, full, pages }] of model.held) {
    if (ended) continue
    const blocks = memory.blocks(counter)
    expect(blocks).toHaveLength(pages)
    expect(memory.fullPages(counter)).toBe(full)
    for (const [page, block] of blocks.entries()) {
      const hash = page < full ? (hashes(text, pages)[page] ?? '') : `blank ${counter}/${page}`
      holders.set(block, [...(holders.get(block) ?? []), hash])
    }
  }
  // Whoever shares a block has the same content in it.
  for (const names of holders.values()) expect(new Set(names).size).toBe(1)
  for (const hash of real.stored) {
    const block = table.find(hash)
    const names = block === undefined ? undefined : holders.get(block)
    if (names !== undefined) expect(names[0]).toBe(hash)
  }
  const inUse = [...model.held.values()].some(({ ended }) => ended)
  if (!inUse) expect(table.heldBlocks).toBe(holders.size)
  else expect(table.heldBlocks).toBeGreaterThanOrEqual(holders.size)
  expect(table.heldBlocks + table.cachedBlocks).toBeLessThanOrEqual(CAPACITY_BLOCKS)
  expect(table.availableBlocks).toBeLessThanOrEqual(CAPACITY_BLOCKS - table.heldBlocks)
  if (model.loans.size === 0) expect(table.availableBlocks).toBe(CAPACITY_BLOCKS - table.heldBlocks)
}

type Holding = NonNullable<ReturnType<Model['held']['get']>>

/** A command on one lease, chosen by `pick` among all that were ever issued. */
function onLease(
  pick: number,
  name: string,
  applies: (holding: Holding) => boolean,
  apply: (real: Real, counter: bigint, holding: Holding, model: Model) => void,
): Command {
  const counterOf = (model: Readonly<Model>): bigint => BigInt(1 + (pick % Math.max(1, Number(model.issued))))
  return {
    check: (model) => {
      const holding = model.held.get(counterOf(model))
      return holding !== undefined && applies(holding)
    },
    run: (model, real) => {
      const counter = counterOf(model)
      const holding = model.held.get(counter)
      if (holding !== undefined) apply(real, counter, holding, model)
      check(model, real)
    },
    toString: () => `${name}(${pick})`,
  }
}

const alive = ({ ended }: Holding): boolean => !ended

const commands: fc.Arbitrary<Command>[] = [
  fc.tuple(fc.nat(120), fc.nat(1)).map(([tokens, text]) => ({
    check: () => true,
    run: (model: Model, real: Real) => {
      model.issued += 1n
      const pages = blocksForTokens(tokens)
      const known = hashes(text, pages)
      const missing = known.findIndex((hash) => !real.stored.has(hash))
      const run = missing < 0 ? pages : missing
      const { availableBlocks } = real.table
      const before = real.evicted.length
      const fits = real.grant(model.issued, tokens, known)
      // Sharing never makes it harder to fit.
      if (pages <= availableBlocks) expect(fits).toBe(true)
      if (fits) {
        model.held.set(model.issued, { text, pages, full: run, pins: 0, ended: false })
        // Room was never made at the cost of what is shared.
        for (const hash of real.evicted.slice(before)) expect(known.slice(0, run)).not.toContain(hash)
      }
      check(model, real)
    },
    toString: () => `grant(${tokens} tokens of ${text})`,
  })),
  fc.tuple(fc.nat(), fc.nat(120)).map(([pick, tokens]) =>
    onLease(pick, `extend to ${tokens} of`, alive, (real, counter, holding) => {
      const pages = Math.max(blocksForTokens(tokens), holding.pages)
      const fits = pages - holding.pages <= real.table.availableBlocks
      expect(real.memory.extend(counter, tokens)).toBe(fits)
      if (!fits) return
      holding.pages = pages
      real.memory.identify(counter, hashes(holding.text, pages))
    }),
  ),
  fc.tuple(fc.nat(), fc.nat(8)).map(([pick, pages]) =>
    onLease(pick, `fill ${pages} of`, alive, (real, counter, holding) => {
      real.memory.filled(counter, pages)
      holding.full = Math.max(holding.full, Math.min(pages, holding.pages))
    }),
  ),
  fc.nat().map((pick) =>
    onLease(pick, 'pin', alive, (real, counter, holding) => {
      real.memory.pin(counter)
      holding.pins += 1
    }),
  ),
  fc.nat().map((pick) =>
    onLease(
      pick,
      'unpin',
      ({ pins }) => pins > 0,
      (real, counter, holding, model) => {
        real.memory.unpin(counter)
        holding.pins -= 1
        if (holding.ended && holding.pins === 0) model.held.delete(counter)
      },
    ),
  ),
  fc.nat().map((pick) =>
    onLease(pick, 'end', alive, (real, counter, holding, model) => {
      real.memory.end(counter)
      holding.ended = true
      if (holding.pins === 0) model.held.delete(counter)
    }),
  ),
  fc.tuple(fc.nat(1), fc.integer({ min: 1, max: 8 })).map(([text, pages]) => ({
    check: () => true,
    run: (model: Model, real: Real) => {
      const known = hashes(text, pages)
      const missing = known.findIndex((hash) => !real.stored.has(hash))
      const { loan, blocks } = real.memory.lend(known)
      expect(blocks).toHaveLength(missing < 0 ? pages : missing)
      expect(loan > 0).toBe(blocks.length > 0)
      if (loan > 0) model.loans.set(loan, text)
      check(model, real)
    },
    toString: () => `lend(${pages} of ${text})`,
  })),
  fc.nat(9).map((pick) => ({
    check: (model: Readonly<Model>) => model.loans.size > 0,
    run: (model: Model, real: Real) => {
      const loans = [...model.loans.keys()]
      const loan = loans[pick % loans.length] ?? 0
      model.loans.delete(loan)
      real.memory.return(loan)
      check(model, real)
    },
    toString: () => `return(${pick})`,
  })),
]

describe('leases and blocks', () => {
  it('agree with the model over random histories', () => {
    fc.assert(
      fc.property(fc.commands(commands, { maxCommands: 60 }), (history) => {
        fc.modelRun(
          () => ({ model: { issued: 0n, held: new Map(), loans: new Map() }, real: new Real() }),
          history,
        )
      }),
      { numRuns: 1_000 },
    )
  })

  it('evict the least recently used chain first, its last block before those it needs', () => {
    const real = new Real()
    const { memory } = real
    for (const [counter, text] of [
      [1n, 0],
      [2n, 1],
    ] as const) {
      real.grant(counter, 64, hashes(text, 4))
      memory.filled(counter, 4)
    }
    memory.end(1n)
    memory.end(2n)
    real.grant(3n, 16 * 9, [])
    expect(real.evicted).toEqual(['0/3', '0/2', '0/1', '1/3'])
    real.grant(4n, 16 * 3, [])
    expect(real.evicted.slice(4)).toEqual(['1/2', '1/1', 'common'])
  })

  it('keep one of two blocks with the same content, the other is free at its end', () => {
    const real = new Real()
    const { memory, table } = real
    real.grant(1n, 32, hashes(0, 2))
    real.grant(2n, 32, hashes(0, 2))
    memory.filled(1n, 2)
    memory.filled(2n, 2)
    memory.end(1n)
    memory.end(2n)
    expect([table.heldBlocks, table.cachedBlocks]).toEqual([0, 2])
  })

  it('cache nothing without hashes', () => {
    const real = new Real()
    const { memory, table } = real
    real.grant(1n, 64, [])
    memory.filled(1n, 4)
    memory.end(1n)
    expect([table.heldBlocks, table.cachedBlocks]).toEqual([0, 0])
  })

  it('fill the nearest tier before the next', () => {
    const real = new Real()
    const { memory } = real
    real.grant(1n, 16 * 7, [])
    expect(memory.blocks(1n)).toEqual([0, 1, 2, 3, 4, 5, 6])
  })

  it('refuse a block that is freed twice', () => {
    const allocator = new BlockAllocator([4])
    const blocks = allocator.allocate(2) ?? []
    for (const block of blocks) allocator.release(block)
    expect(() => allocator.release(blocks[0] ?? 0)).toThrow('was not in use')
    expect(allocator.freeBlocks).toBe(4)
  })

  it('give nothing when a wish does not fit as a whole', () => {
    const allocator = new BlockAllocator([1, 3])
    expect(allocator.allocate(5)).toBeUndefined()
    expect(allocator.allocate(0)).toEqual([])
    expect(allocator.allocate(4)).toHaveLength(4)
    expect(allocator.allocate(1)).toBeUndefined()
  })
})
