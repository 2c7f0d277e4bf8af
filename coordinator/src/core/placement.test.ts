/**
 * What serves decides and explains as the plainest placement does, in any cluster.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { AttentionWish } from './attention-wish.js'
import { ClusterView } from './cluster-view.js'
import { CostModel } from './cost-model.js'
import type { DeviceFacts } from './facts.js'
import { KvDirectory } from './kv-directory.js'
import { learnFrom, tellEfficiencies } from './learning.js'
import { type PlacementInput, place } from './placement.js'
import type { PolicySetting } from './placement-policy.js'
import { StageCosts } from './stage-costs.js'
import { TEST_MODEL_DIGEST, type TestModel, testDevice, testLoad } from './testing/devices.js'
import { hashesOf } from './testing/named-hashes.js'
import { plainPlace } from './testing/plain-placement.js'

const LIMITS = { protocolVersion: 1, protocolVersionMin: 1 }
const NOW_MS = 1_000
/** Of how many devices that could attend the best are taken, of more not all. */
const ATTENDING_MAX = 8

const CAPABILITIES = [
  ['prefill', 'decode'],
  ['decode', 'prefill'],
  ['decode', 'prefill'],
  ['decode'],
  ['prefill'],
  ['kv-tier'],
] as const
const MODELS: readonly (readonly TestModel[])[] = [
  [{}],
  [{}],
  [{ profile: 'paper' }],
  [{}, { profile: 'paper' }],
  [{}, { digest: 'large', kvTokens: 20_000 }],
  [{ digest: 'large' }],
  [{ slidingWindowTokens: 512 }],
]
/** Few values, so that many devices are alike and ties are decided. */
const anyDevice = fc.record({
  capabilities: fc.constantFrom(...CAPABILITIES),
  attends: fc.boolean(),
  models: fc.constantFrom(...MODELS),
  decodeSlots: fc.constantFrom(1, 4, 32),
  kvTokens: fc.constantFrom(2_000, 20_000, 400_000),
  opsPerSecond: fc.constantFrom(100e9, 1e12, 20e12),
  bytesPerSecond: fc.constantFrom(10e9, 10e9, 460e9, 1_935e9),
  linkBytesPerSecond: fc.constantFrom(1e9, 12e9),
  latencyMs: fc.constantFrom(0.001, 0.05),
  protocolVersion: fc.constantFrom(1, 1, 1, 1, 2),
  modelled: fc.constantFrom(true, true, true, false),
  contextTokensMax: fc.constantFrom(4_096, 32_768, 32_768),
  hasKernels: fc.constantFrom(true, true, true, false),
  slots: fc.constantFrom(0, 0, 1, 3, 40),
  usedTokens: fc.constantFrom(0, 0, 10_000),
  waiting: fc.constantFrom(0, 0, 300, 5_000),
  held: fc.constantFrom(0, 0, 0, 4, 40, 200),
  hole: fc.constantFrom(-1, -1, 2),
  state: fc.constantFrom('up', 'up', 'up', 'up', 'draining', 'silent', 'refusing', 'avoided'),
})
const anyWish: fc.Arbitrary<AttentionWish> = fc.oneof(
  fc.record({
    method: fc.constantFrom('page-bounds', 'recent'),
    budget: fc.constantFrom({ tokens: 256 }, { share: 0.25 }),
    place: fc.constantFrom('auto', 'local', 'partial', 'indices'),
  }),
  fc.record({
    method: fc.constantFrom('auto', 'dense'),
    budget: fc.constant(null),
    place: fc.constantFrom('auto', 'local', 'partial', 'indices'),
  }),
)
const anyRequest = fc.record({
  modelDigest: fc.constantFrom(TEST_MODEL_DIGEST, TEST_MODEL_DIGEST, 'large', 'nobody has it'),
  profile: fc.constantFrom('exact', 'exact', 'paper'),
  promptTokens: fc.constantFrom(10, 100, 1_000, 3_500, 10_000),
  maxTokens: fc.constantFrom(1, 8, 400),
  wish: fc.option(anyWish, { nil: undefined, freq: 2 }),
  isSettled: fc.constantFrom(false, false, false, true),
  isPlaceBinding: fc.boolean(),
})
/** Mostly what serves by default. */
const anyPolicy: fc.Arbitrary<PolicySetting> = fc.constantFrom<PolicySetting>(
  ...[{}, {}, {}, {}, { decodeAssist: false }, { pick: 'earliest-finish' as const }],
)
const anyRecord = fc.record({
  prefill: fc.nat(),
  decode: fc.nat(),
  profile: fc.constantFrom('exact' as const, 'paper' as const),
  slowness: fc.constantFrom(0.2, 1, 1.3, 5),
})

interface Case {
  readonly devices: readonly (typeof anyDevice extends fc.Arbitrary<infer T> ? T : never)[]
  readonly records: readonly (typeof anyRecord extends fc.Arbitrary<infer T> ? T : never)[]
}

function clusterOf({ devices, records }: Case) {
  const view = new ClusterView()
  const [costs, stageCosts, directory] = [new CostModel(), new StageCosts(), new KvDirectory()]
  const avoided = new Set<string>()
  let attending = 0
  devices.forEach((told, index) => {
    const deviceId = `device-${String(index).padStart(3, '0')}`
    const isAttending = told.attends && attending < ATTENDING_MAX
    if (isAttending) attending += 1
    const capabilities = [...told.capabilities, ...(isAttending ? (['attend'] as const) : [])]
    const { hasKernels, ...rest } = told
    const models = told.capabilities[0] === 'kv-tier' ? [] : told.models
    const facts = testDevice({
      ...rest,
      deviceId,
      capabilities,
      models,
      ...(hasKernels ? {} : { kernels: [] }),
    })
    view.advertise(facts, 0)
    if (told.state !== 'silent') {
      const use = { slots: told.slots, kvTokens: told.usedTokens, prefillTokens: told.waiting }
      view.report(testLoad(facts, 1, { ...use, draining: told.state === 'draining' }), NOW_MS)
    }
    if (told.state === 'refusing') view.refused(deviceId, NOW_MS)
    if (told.state === 'avoided') avoided.add(deviceId)
    for (const { variant } of facts.models) {
      const blocks = textOf(told.held).filter((_name, at) => at !== told.hole)
      directory.store(deviceId, { variant, hashes: hashesOf(blocks) }, 'hbm')
    }
  })
  const known = [...view.devices()]
  for (const { prefill, decode, profile, slowness } of records) {
    const on = (index: number): DeviceFacts | undefined => known[index % Math.max(1, known.length)]?.facts
    const [from, to] = [on(prefill), on(decode)]
    if (!from || !to) continue
    const record = {
      modelDigest: TEST_MODEL_DIGEST,
      profile,
      prefill: { deviceId: from.deviceId, tokens: 1_000, contextTokens: 0, computeMs: 100 * slowness },
      decode: { deviceId: to.deviceId, steps: 20, stepsMs: 60 * slowness, batch: 2, contextTokens: 1_000 },
      transfer: { fromDeviceId: from.deviceId, toDeviceId: to.deviceId, bytes: 1e7, busyMs: 10 * slowness },
      attention: {
        chooserDeviceId: from.deviceId,
        applierDeviceId: to.deviceId,
        ...{ pages: 100, pagesRead: 10, relevancyMs: 0.01 * slowness, retrievalMs: 0.01, applyMs: 0.02 },
      },
    }
    learnFrom(record, { view, costs, stageCosts })
  }
  for (const device of view.devices()) tellEfficiencies(device, costs)
  return { view, costs, stageCosts, directory, avoided }
}

function textOf(blocks: number): string[] {
  return Array.from({ length: blocks }, (_, index) => `text.${index}`)
}

function inputOf(
  request: typeof anyRequest extends fc.Arbitrary<infer T> ? T : never,
  avoided: ReadonlySet<string>,
): PlacementInput {
  const { promptTokens, maxTokens, wish, isPlaceBinding, isSettled, profile, modelDigest } = request
  const settled = isSettled ? ({ method: 'page-bounds', budget: { tokens: 256 } } as const) : null
  return {
    requestId: 'request',
    epoch: 1,
    modelDigest,
    profiles: profile === 'exact' ? ['exact'] : ['paper', 'exact'],
    blockHashes: hashesOf(textOf(Math.floor(promptTokens / 16))),
    prefillTokens: promptTokens,
    reserveTokens: promptTokens + Math.min(256, maxTokens),
    tokensLeft: maxTokens,
    attention: { wish, isSparseDefault: true, settled, isPlaceBinding },
    movedBecause: null,
    avoided,
  }
}

describe('placement', () => {
  test('decides and explains as if every device had been weighed with every other one', () => {
    const rules = new Set<string>()
    fc.assert(
      fc.property(
        fc.record({
          devices: fc.array(anyDevice, { maxLength: 40, size: 'max' }),
          records: fc.array(anyRecord, { maxLength: 20 }),
        }),
        fc.array(anyRequest, { minLength: 4, maxLength: 4 }),
        anyPolicy,
        (built, requests, policy) => {
          const { avoided, ...cluster } = clusterOf(built)
          for (const request of requests) {
            const input = inputOf(request, avoided)
            const limits = { ...LIMITS, policy }
            const outcome = place(input, cluster, limits, NOW_MS)
            expect(outcome).toEqual(plainPlace(input, cluster, limits, NOW_MS))
            if (!outcome.placed) rules.add('nowhere')
            else {
              const { prefillRule, decodeRule, attention, prefix, passedOver } = outcome.decision
              for (const rule of [prefillRule, decodeRule, attention.method, attention.place]) rules.add(rule)
              if (prefix.fetch) rules.add('fetch')
              if (passedOver) rules.add('another profile')
            }
          }
        },
      ),
      { numRuns: 300, seed: 4 },
    )
    // None of this says anything about what never came up.
    expect([...rules].sort()).toEqual([
      ...[
        'another profile',
        'dense',
        'earliest-finish',
        'fetch',
        'free-slot',
        'holds-prefix',
        'indices',
        'local',
        'much-faster',
      ],
      ...[
        'no-free-slot',
        'nowhere',
        'offloads',
        'only-one-left',
        'page-bounds',
        'partial',
        'prefers-prefill',
      ],
      'recent',
    ])
  })
})
