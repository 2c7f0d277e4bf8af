/**
 * Whatever happens to devices and to NATS, requests end, tokens come in order and
 * once, and nothing stays reserved. The simulation checks as it goes.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { AttentionWish } from './attention-wish.js'
import { SimulatedCluster, type SimulatedFault, type SimulatedRun } from './testing/simulated-cluster.js'

const KINDS: readonly SimulatedFault['kind'][] = [
  'kill',
  'restart',
  'hang',
  'stick',
  'resume',
  'drain',
  'unload',
  'load',
  'bus-down',
  'bus-up',
]

const anyAttention: fc.Arbitrary<AttentionWish> = fc.oneof(
  fc.record({
    method: fc.constantFrom('page-bounds'),
    budget: fc.constantFrom({ tokens: 64 }, { share: 0.5 }),
    place: fc.constantFrom('auto', 'local', 'partial', 'indices'),
  }),
  fc.record({
    method: fc.constantFrom('auto', 'dense'),
    budget: fc.constant(null),
    place: fc.constantFrom('auto', 'partial'),
  }),
)

const anyRun: fc.Arbitrary<SimulatedRun> = fc.record({
  seed: fc.integer(),
  faults: fc.array(
    fc.record({
      atMs: fc.integer({ min: 0, max: 6_000 }),
      device: fc.nat(2),
      kind: fc.constantFrom(...KINDS),
    }),
    { maxLength: 12 },
  ),
  requests: fc.array(
    fc.record({
      atMs: fc.integer({ min: 0, max: 4_000 }),
      promptTokens: fc.integer({ min: 1, max: 600 }),
      maxTokens: fc.integer({ min: 1, max: 40 }),
      leavesAfterMs: fc.option(fc.integer({ min: 0, max: 1_500 }), { freq: 4 }),
      attention: fc.option(anyAttention, { nil: undefined }),
      profile: fc.constantFrom('exact', 'exact', 'paper'),
    }),
    { minLength: 1, maxLength: 14 },
  ),
})

test('no fault schedule loses or doubles a token, hangs a request or leaks a reservation', {
  timeout: 60_000,
}, () => {
  fc.assert(
    fc.property(anyRun, (run) => {
      new SimulatedCluster(run).play()
    }),
    { numRuns: 1_000 },
  )
})

const PARTIAL: AttentionWish = { method: 'page-bounds', budget: { tokens: 16 }, place: 'partial' }

test('a schedule without faults serves every request', () => {
  const requests = Array.from({ length: 6 }, (_, index) => ({
    atMs: index * 20,
    promptTokens: 50,
    maxTokens: 10,
    leavesAfterMs: null,
    attention: index % 2 === 0 ? PARTIAL : undefined,
    profile: index % 3 === 0 ? ('paper' as const) : ('exact' as const),
  }))
  const cluster = new SimulatedCluster({ seed: 7, faults: [], requests })
  cluster.play()
  expect(cluster.ends()).toEqual(Array.from({ length: 6 }, () => 'finish'))
})
