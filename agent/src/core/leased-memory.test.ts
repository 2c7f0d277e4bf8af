/** Leases and the block allocator against a plain model, over thousands of random histories. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { BlockAllocator, blocksForTokens } from './block-allocator.js'
import { type LeaseReference, LeaseTable } from './lease-table.js'
import { LeasedMemory } from './leased-memory.js'

const TTL_MS = 1_000
const ISSUER = { deviceId: 'fpga-0', incarnation: 7n, ttlMs: TTL_MS }
const CAPACITY_BLOCKS = 12

/** What a careful clerk would write down. */
interface Model {
  nowMs: number
  issued: bigint
  held: Map<bigint, { blocks: number; pins: number; ended: boolean; expiresAtMs: number; inUse: boolean }>
}

interface Real {
  table: LeaseTable
  memory: LeasedMemory
}

type Command = fc.Command<Model, Real>

function usedBlocks(model: Model): number {
  return [...model.held.values()].reduce((sum, holding) => sum + holding.blocks, 0)
}

function reference(counter: bigint, over: Partial<LeaseReference> = {}): LeaseReference {
  return { deviceId: ISSUER.deviceId, incarnation: ISSUER.incarnation, counter, ...over }
}

function check(model: Model, { table, memory }: Real): void {
  expect(memory.usedBlocks).toBe(usedBlocks(model))
  expect(memory.usedBlocks).toBeLessThanOrEqual(CAPACITY_BLOCKS)
  const alive = [...model.held].filter(([, holding]) => !holding.ended)
  expect(table.aliveCount).toBe(alive.length)
  const seen = new Set<number>()
  for (const [counter] of alive) {
    expect(table.verdict(reference(counter))).toBe('alive')
    for (const block of memory.blocks(counter)) {
      expect(seen.has(block)).toBe(false)
      seen.add(block)
    }
  }
  for (let counter = 1n; counter <= model.issued; counter += 1n) {
    const holding = model.held.get(counter)
    if (holding === undefined || holding.ended) expect(table.verdict(reference(counter))).toBe('ended')
  }
  expect(table.verdict(reference(model.issued + 1n))).toBe('foreign')
  expect(table.verdict(reference(1n, { incarnation: 6n }))).toBe('older')
  expect(table.verdict(reference(1n, { incarnation: 8n }))).toBe('foreign')
  expect(table.verdict(reference(1n, { deviceId: 'gpu-0' }))).toBe('foreign')
}

function endInModel(model: Model, counter: bigint): void {
  const holding = model.held.get(counter)
  if (holding === undefined) return
  holding.ended = true
  if (holding.pins === 0) model.held.delete(counter)
}

/** A command on one lease, chosen by `pick` among all that were ever issued. */
function onLease(
  pick: number,
  name: string,
  applies: (holding: NonNullable<ReturnType<Model['held']['get']>>) => boolean,
  apply: (model: Model, real: Real, counter: bigint) => void,
): Command {
  const counterOf = (model: Readonly<Model>): bigint => BigInt(1 + (pick % Math.max(1, Number(model.issued))))
  return {
    check: (model) => {
      const holding = model.held.get(counterOf(model))
      return holding !== undefined && applies(holding)
    },
    run: (model, real) => {
      apply(model, real, counterOf(model))
      check(model, real)
    },
    toString: () => `${name}(${pick})`,
  }
}

const alive = (holding: { ended: boolean }): boolean => !holding.ended

const commands: fc.Arbitrary<Command>[] = [
  fc.nat(120).map((tokens) => ({
    check: () => true,
    run: (model, real) => {
      const counter = real.table.issue(model.nowMs)
      model.issued += 1n
      expect(counter).toBe(model.issued)
      const blocks = blocksForTokens(tokens)
      const fits = usedBlocks(model) + blocks <= CAPACITY_BLOCKS
      expect(real.memory.grant(counter, tokens)).toBe(fits)
      const expiresAtMs = model.nowMs + TTL_MS
      if (fits) model.held.set(counter, { blocks, pins: 0, ended: false, expiresAtMs, inUse: false })
      else expect(real.table.end(counter)).toBe(true)
      check(model, real)
    },
    toString: () => `grant(${tokens} tokens)`,
  })),
  fc.tuple(fc.nat(), fc.nat(200)).map(([pick, tokens]) =>
    onLease(pick, `extend to ${tokens} of`, alive, (model, real, counter) => {
      const holding = model.held.get(counter)
      if (holding === undefined) return
      const blocks = Math.max(blocksForTokens(tokens), holding.blocks)
      const fits = usedBlocks(model) - holding.blocks + blocks <= CAPACITY_BLOCKS
      expect(real.memory.extend(counter, tokens)).toBe(fits)
      if (fits) holding.blocks = blocks
    }),
  ),
  fc.nat().map((pick) =>
    onLease(pick, 'pin', alive, (model, real, counter) => {
      real.memory.pin(counter)
      const holding = model.held.get(counter)
      if (holding !== undefined) holding.pins += 1
    }),
  ),
  fc.nat().map((pick) =>
    onLease(
      pick,
      'unpin',
      (holding) => holding.pins > 0,
      (model, real, counter) => {
        real.memory.unpin(counter)
        const holding = model.held.get(counter)
        if (holding === undefined) return
        holding.pins -= 1
        if (holding.ended && holding.pins === 0) model.held.delete(counter)
      },
    ),
  ),
  fc.nat().map((pick) =>
    onLease(pick, 'use', alive, (model, real, counter) => {
      real.table.use(counter)
      const holding = model.held.get(counter)
      if (holding !== undefined) holding.inUse = true
    }),
  ),
  fc.nat().map((pick) =>
    onLease(pick, 'renew', alive, (model, real, counter) => {
      real.table.renew(counter, model.nowMs)
      const holding = model.held.get(counter)
      if (holding !== undefined) holding.expiresAtMs = model.nowMs + TTL_MS
    }),
  ),
  fc.nat().map((pick) =>
    onLease(pick, 'end', alive, (model, real, counter) => {
      expect(real.table.end(counter)).toBe(true)
      real.memory.end(counter)
      expect(real.table.end(counter)).toBe(false)
      endInModel(model, counter)
    }),
  ),
  fc.nat(700).map((elapsedMs) => ({
    check: () => true,
    run: (model, real) => {
      model.nowMs += elapsedMs
      const due = [...model.held].filter(([, h]) => !h.ended && !h.inUse && h.expiresAtMs <= model.nowMs)
      expect(real.table.expired(model.nowMs)).toEqual(due.map(([counter]) => counter))
      for (const [counter] of due) {
        real.table.end(counter)
        real.memory.end(counter)
        endInModel(model, counter)
      }
      check(model, real)
    },
    toString: () => `wait(${elapsedMs} ms)`,
  })),
]

describe('leases and blocks', () => {
  it('agree with the model over random histories', () => {
    fc.assert(
      fc.property(fc.commands(commands, { maxCommands: 60 }), (history) => {
        fc.modelRun(
          () => ({
            model: { nowMs: 0, issued: 0n, held: new Map() },
            real: { table: new LeaseTable(ISSUER), memory: new LeasedMemory(CAPACITY_BLOCKS) },
          }),
          history,
        )
      }),
      { numRuns: 2_000 },
    )
  })

  it('refuse a block that is freed twice', () => {
    const allocator = new BlockAllocator(4)
    const blocks = allocator.allocate(2) ?? []
    allocator.release(blocks)
    expect(() => allocator.release(blocks)).toThrow('was not in use')
    expect(allocator.freeBlocks).toBe(4)
  })

  it('give nothing when a wish does not fit as a whole', () => {
    const allocator = new BlockAllocator(4)
    expect(allocator.allocate(5)).toBeUndefined()
    expect(allocator.allocate(0)).toEqual([])
    expect(allocator.allocate(4)).toHaveLength(4)
    expect(allocator.allocate(1)).toBeUndefined()
  })
})
