/** The whole core over thousands of random histories: exact books, true contents, no leak, one end for everything. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { CoreHarness } from '../testing/core-harness.js'
import type { Operation } from '../testing/core-operations.js'
import { AgentCore } from './agent-core.js'
import type { CoreOptions } from './core-options.js'

const OPTIONS: CoreOptions = {
  deviceId: 'fpga-0',
  incarnation: 7n,
  leaseTtlMs: 1_000,
  tiers: [{ name: 'hbm', blocks: 20, bytesPerSecond: 460 }],
  blockBytes: 64,
  tierPolicy: 'static',
  decodeSlots: 3,
  waitingMax: 4,
  contextTokensMax: 200,
  limits: { rowsMax: 64, chunkTokens: 64, sharedChunkTokens: 16 },
}

const TWO_TIERS = [
  { name: 'hbm', blocks: 9, bytesPerSecond: 460 },
  { name: 'ddr', blocks: 15, bytesPerSecond: 77 },
]

const nat = fc.nat(30)
const request = fc.nat(5)
const epoch = fc.integer({ min: 1, max: 3 })
const text = fc.nat(3)
const prompt = fc.integer({ min: 1, max: 120 })
const reuse = fc.nat(5).map((draw) => draw > 0)
const fetch = fc.oneof(fc.constant(0), fc.nat(130))
const pattern = fc.nat(4)
const rarely = (most: number) => fc.nat(most).map((draw) => draw === 0)
const operation: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constant('reserve' as const),
      request,
      epoch,
      text,
      prompt,
      room: fc.nat(60),
      reuse,
      purpose: fc.constantFrom('decode' as const, 'decode' as const, 'attend' as const),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      type: fc.constant('prefill' as const),
      request,
      epoch,
      text,
      prompt,
      reuse,
      fetch,
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      type: fc.constant('decode' as const),
      lease: nat,
      more: fc.oneof(fc.constant(0), fc.nat(40)),
      tokensMax: fc.integer({ min: 1, max: 150 }),
      pulled: fc.boolean(),
      fetch,
      offload: fc.constantFrom('none' as const, 'none' as const, 'partial' as const, 'indices' as const),
      otherText: rarely(9),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ type: fc.constant('attend' as const), lease: nat, reuse, push: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('extend' as const), lease: nat, tokens: prompt }) },
  {
    weight: 6,
    arbitrary: fc.record({
      type: fc.constantFrom(
        'release' as const,
        'pin',
        'unpin',
        'received',
        'received',
        'sent',
        'cancel',
        'offloaded',
        'return',
      ),
      pick: nat,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constantFrom('fetched' as const, 'held'),
      pick: nat,
      tokens: fc.nat(130),
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('reads' as const), pick: nat, pattern }) },
  {
    weight: 1,
    arbitrary: fc.record({ type: fc.constant('lend' as const), text, pages: fc.integer({ min: 1, max: 8 }) }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('evict' as const), drop: fc.boolean() }) },
  {
    weight: 12,
    arbitrary: fc.record({
      type: fc.constant('finish-step' as const),
      stops: rarely(19),
      fails: rarely(39),
      remoteFails: rarely(19),
      pattern,
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('wait' as const), elapsedMs: fc.nat(600) }) },
)
const options: fc.Arbitrary<CoreOptions> = fc
  .record({
    tiers: fc.constantFrom(OPTIONS.tiers, TWO_TIERS),
    tierPolicy: fc.constantFrom('static' as const, 'reactive' as const, 'balanced' as const),
  })
  .map((over) => ({ ...OPTIONS, ...over }))

const RESERVE = { type: 'reserve', epoch: 1, prompt: 50, room: 10, reuse: true, purpose: 'decode' } as const
const DECODE = {
  type: 'decode',
  more: 0,
  pulled: false,
  fetch: 0,
  offload: 'none',
  otherText: false,
} as const
const FINISH = { type: 'finish-step', stops: false, fails: false, remoteFails: false, pattern: 0 } as const

describe('AgentCore', () => {
  it('keeps its books over random histories, and holds nothing once all has ended', () => {
    fc.assert(
      fc.property(
        options,
        fc.array(operation, { maxLength: 150, size: 'max' }),
        rarely(3),
        (options, history, drains) => {
          const harness = new CoreHarness(options)
          history.forEach((item, index) => {
            if (drains && index === history.length >> 1) harness.run({ type: 'drain' })
            harness.run(item)
          })
          harness.endAll()
          const load = harness.core.load()
          expect(load).toMatchObject({ usedBlocks: 0, leases: 0, sequences: 0, decodeSlotsUsed: 0 })
          expect(harness.books.unendedSequences).toBe(0)
          expect(harness.books.drained).toBe(true)
          // What is left is cache, and all of it can be given up.
          const cached = load.tiers.reduce((sum, { cachedBlocks }) => sum + cachedBlocks, 0)
          expect(cached).toBe(harness.books.stored.size)
          harness.run({ type: 'evict', drop: true })
          expect(harness.books.stored.size).toBe(0)
        },
      ),
      { numRuns: 1_000 },
    )
  })

  it('lets every sequence of a busy device end by itself', () => {
    const harness = new CoreHarness(OPTIONS)
    for (let request = 0; request < 3; request += 1) {
      harness.run({ ...RESERVE, request, text: request })
      harness.run({ ...DECODE, lease: request, tokensMax: 100 })
    }
    for (let step = 0; step < 400; step += 1) harness.run(FINISH)
    expect(harness.core.load()).toMatchObject({ usedBlocks: 0, leases: 0, sequences: 0 })
  })

  it('gives the same actions for the same events', () => {
    const play = () => {
      const core = new AgentCore(OPTIONS)
      const lists = { stopped: [], failed: [], filled: [], reads: [] }
      const finished = { type: 'step-finished', cancelled: false, ...lists, elapsedUs: 1_000 } as const
      const lease = { deviceId: 'fpga-0', incarnation: 7n, counter: 1n }
      return [
        core.step(
          { type: 'reserve', requestId: 'a', epoch: 1, tokens: 40, hashes: [], purpose: 'decode' },
          0,
        ),
        core.step(
          {
            type: 'decode',
            sequence: 1,
            lease,
            requestId: 'a',
            epoch: 1,
            promptTokens: 30,
            firstIndex: 0,
            tokensMax: 9,
            kv: 'computed',
            hashes: [],
            fetchTokens: 0,
            offload: undefined,
          },
          1,
        ),
        core.step(finished, 2),
        core.step({ type: 'end', sequence: 1, cause: 'cancelled' }, 3),
        core.step(finished, 4),
      ]
    }
    expect(play()).toEqual(play())
  })

  it('says from which tier attention read, and what was moved for it', () => {
    const tiers = [
      { name: 'hbm', blocks: 10, bytesPerSecond: 400 },
      { name: 'ddr', blocks: 6, bytesPerSecond: 100 },
    ]
    const core = new AgentCore({ ...OPTIONS, tiers, tierPolicy: 'balanced', blockBytes: 64 })
    const lease = { deviceId: 'fpga-0', incarnation: 7n, counter: 1n }
    const own = { requestId: 'a', epoch: 1, hashes: [] }
    core.step({ type: 'reserve', ...own, tokens: 150, purpose: 'decode' }, 0)
    const kv = { kv: 'pulled', fetchTokens: 0, offload: undefined } as const
    core.step(
      { type: 'decode', sequence: 1, lease, ...own, promptTokens: 150, firstIndex: 0, tokensMax: 4, ...kv },
      0,
    )
    core.step({ type: 'received', sequence: 1, stopped: false }, 0)
    const lists = { stopped: [], failed: [], filled: [], reads: [] }
    const finished = { type: 'step-finished', cancelled: false, ...lists, elapsedUs: 1_000 } as const
    // The first of three steps reads ten pages from the near tier; then two of them move, which is their share.
    expect(core.step(finished, 1).map(({ type }) => type)).toEqual(['copy', 'run-step'])
    expect(core.step(finished, 2).map(({ type }) => type)).toEqual(['run-step'])
    const [, ended] = core.step(finished, 3)
    expect(ended).toMatchObject({
      type: 'sequence-ended',
      reason: 'length',
      reads: [
        { tier: 'hbm', readBytes: (10 + 8 + 8) * 64, movedBytes: 0 },
        { tier: 'ddr', readBytes: (2 + 2) * 64, movedBytes: 2 * 64 },
      ],
    })
    expect(core.load().tiers).toMatchObject([
      { name: 'hbm', readBytes: 26 * 64, outBlocks: 2, inBlocks: 10, leasedBlocks: 0 },
      { name: 'ddr', readBytes: 4 * 64, outBlocks: 0, inBlocks: 2, leasedBlocks: 0 },
    ])
  })

  it('counts what was looked for and found, each tier what nearer ones had not', () => {
    const tiers = [
      { name: 'hbm', blocks: 2, bytesPerSecond: 400 },
      { name: 'ddr', blocks: 6, bytesPerSecond: 100 },
    ]
    const core = new AgentCore({ ...OPTIONS, tiers })
    const lists = { stopped: [], failed: [], filled: [], reads: [] }
    const finished = { type: 'step-finished', cancelled: false, ...lists, elapsedUs: 1_000 } as const
    for (const sequence of [1, 2]) {
      const own = { requestId: `request-${sequence}`, epoch: 1, hashes: ['a', 'b', 'c', 'd'], fetchTokens: 0 }
      let actions = core.step({ type: 'prefill', sequence, ...own, promptTokens: 65 }, 0)
      while (actions.some(({ type }) => type === 'run-step')) actions = core.step(finished, 0)
      core.step({ type: 'sent', sequence, blocks: 5 }, 0)
    }
    expect(core.load().tiers).toMatchObject([
      { lookups: 8, hits: 2, cachedBlocks: 2 },
      { lookups: 6, hits: 2 },
    ])
  })
})
