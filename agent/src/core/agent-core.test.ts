/** The whole core over thousands of random histories: exact budgets, no leak, one end for everything. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { CoreHarness, type Operation } from '../testing/core-harness.js'
import { AgentCore, type CoreOptions } from './agent-core.js'

const OPTIONS: CoreOptions = {
  deviceId: 'fpga-0',
  incarnation: 7n,
  leaseTtlMs: 1_000,
  capacityBlocks: 20,
  decodeSlots: 3,
  waitingMax: 4,
  contextTokensMax: 200,
  limits: { rowsMax: 64, chunkTokens: 64, sharedChunkTokens: 16 },
}

const nat = fc.nat(30)
const request = fc.nat(5)
const epoch = fc.integer({ min: 1, max: 3 })
const tokens = fc.integer({ min: 1, max: 180 })
const operation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ type: fc.constant('reserve' as const), request, epoch, tokens }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('prefill' as const), request, epoch, tokens }) },
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constant('decode' as const),
      lease: nat,
      tokens,
      tokensMax: fc.integer({ min: 1, max: 150 }),
      pulled: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('extend' as const), lease: nat, tokens }) },
  {
    weight: 5,
    arbitrary: fc.record({
      type: fc.constantFrom('release' as const, 'pin', 'unpin', 'received', 'sent', 'cancel'),
      pick: nat,
    }),
  },
  {
    weight: 9,
    arbitrary: fc.record({
      type: fc.constant('finish-step' as const),
      stops: fc.nat(19).map((draw) => draw === 0),
      fails: fc.nat(39).map((draw) => draw === 0),
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('wait' as const), elapsedMs: fc.nat(600) }) },
)

describe('AgentCore', () => {
  it('keeps its books over random histories, and holds nothing once all has ended', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 120, size: 'max' }), fc.boolean(), (history, drains) => {
        const harness = new CoreHarness(OPTIONS)
        history.forEach((item, index) => {
          if (drains && index === history.length >> 1) harness.run({ type: 'drain' })
          harness.run(item)
        })
        harness.endAll()
        expect(harness.core.load()).toMatchObject({
          usedBlocks: 0,
          leases: 0,
          sequences: 0,
          decodeSlotsUsed: 0,
        })
        expect(harness.unendedSequences).toBe(0)
        expect(harness.drained).toBe(true)
      }),
      { numRuns: 1_500 },
    )
  })

  it('lets every sequence of a busy device end by itself', () => {
    const harness = new CoreHarness(OPTIONS)
    for (let request = 0; request < 3; request += 1)
      harness.run({ type: 'reserve', request, epoch: 1, tokens: 60 })
    for (let lease = 0; lease < 3; lease += 1) {
      harness.run({ type: 'decode', lease, tokens: 50, tokensMax: 100, pulled: false })
    }
    for (let step = 0; step < 400; step += 1) harness.run({ type: 'finish-step', stops: false, fails: false })
    expect(harness.core.load()).toMatchObject({ usedBlocks: 0, leases: 0, sequences: 0 })
  })

  it('gives the same actions for the same events', () => {
    const play = () => {
      const core = new AgentCore(OPTIONS)
      const lease = { deviceId: 'fpga-0', incarnation: 7n, counter: 1n }
      return [
        core.step({ type: 'reserve', requestId: 'a', epoch: 1, tokens: 40 }, 0),
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
          },
          1,
        ),
        core.step({ type: 'step-finished', cancelled: false, stopped: [], elapsedUs: 1_000 }, 2),
        core.step({ type: 'end', sequence: 1, cause: 'cancelled' }, 3),
        core.step({ type: 'step-finished', cancelled: false, stopped: [], elapsedUs: 1_000 }, 4),
      ]
    }
    expect(play()).toEqual(play())
  })
})
