import { describe, expect, test } from 'vitest'
import { hashesFromBytes } from '../hash-words.js'
import {
  factsOf,
  loadFactsOf,
  readAdvertisement,
  readKvEvent,
  readLoadReport,
  readSnapshot,
} from './device-facts.js'

const advertisement = {
  deviceId: 'fpga-0',
  incarnation: '1700000000000123',
  protocolVersion: 1,
  protocolVersionMin: 1,
  kind: 'fpga',
  capabilities: ['CAPABILITY_DECODE', 'CAPABILITY_OF_A_LATER_RELEASE', 'CAPABILITY_PREFILL'],
  tiers: [{ name: 'hbm', kind: 'TIER_KIND_HBM', capacityBytes: '1024', bandwidthBytesPerSecond: 4.6e11 }],
  compute: [{ precision: 'PRECISION_F32', peakOpsPerSecond: 1e12 }],
  models: [
    {
      name: 'skald',
      digest: 'abc',
      profile: 'PROFILE_EXACT',
      contextTokensMax: 512,
      kvBytesPerToken: '2048',
      layers: { first: 0, count: 6 },
      variant: { numerics: 'PROFILE_EXACT', dtype: 'PRECISION_F32', layers: { first: 0, count: 6 } },
      parameters: '3000000',
      weightBytes: '12000000',
    },
    { name: 'unset', digest: 'def' },
  ],
  kernels: [{ name: 'page-scores', version: 1, limits: { pages: '4096' } }],
  decodeSlots: 8,
  link: { class: 'loopback', bytesPerSecond: 1e9, latencyUs: 50 },
  endpoints: { control: '127.0.0.1:4000', kv: '127.0.0.1:4001' },
}

describe('what a device says', () => {
  test('becomes plain facts; what this release does not know is left out', () => {
    const facts = factsOf(readAdvertisement(advertisement))
    expect(facts.incarnation).toBe('1700000000000123')
    expect(facts.capabilities).toEqual(['decode', 'prefill'])
    expect(facts.models.map(({ name }) => name)).toEqual(['skald'])
    expect(facts.models[0]).toMatchObject({ kvBytesPerToken: 2_048, layers: 6, weightBytes: 12_000_000 })
    expect(facts.tiers).toEqual([{ name: 'hbm', capacityBytes: 1_024, bytesPerSecond: 4.6e11 }])
    expect(facts.link.latencyMs).toBeCloseTo(0.05)
    expect(facts.kernels).toEqual([{ name: 'page-scores', version: 1, limits: { pages: 4_096 } }])
  })

  test('of a model alone is read beside what all models share; an older agent says none of it', () => {
    const [model] = advertisement.models
    const paper = {
      ...model,
      profile: 'PROFILE_PAPER',
      numerics: 'w4a8+kv8',
      poolBytesPerToken: '544',
      tiers: [{ name: 'hbm', kind: 'TIER_KIND_HBM', capacityBytes: '512', bandwidthBytesPerSecond: 4.6e11 }],
      compute: [{ precision: 'PRECISION_INT8', peakOpsPerSecond: 2e12 }],
      slidingWindowTokens: 4_096,
    }
    const facts = factsOf(readAdvertisement({ ...advertisement, models: [model, paper] }))
    expect(facts.models[0]).toMatchObject({
      numerics: 'f32',
      poolBytesPerToken: 2_048,
      tiers: [],
      compute: [],
    })
    expect(facts.models[0]).not.toHaveProperty('slidingWindowTokens')
    expect(facts.models[1]).toMatchObject({
      profile: 'paper',
      numerics: 'w4a8+kv8',
      kvBytesPerToken: 2_048,
      poolBytesPerToken: 544,
      tiers: [{ name: 'hbm', capacityBytes: 512, bytesPerSecond: 4.6e11 }],
      compute: [{ precision: 'int8', opsPerSecond: 2e12 }],
      slidingWindowTokens: 4_096,
    })
  })

  test('of its load is told for each model, and of those on their way that have not failed', () => {
    const report = { deviceId: 'fpga-0', incarnation: '7', sequence: '3', decodeSlotsUsed: 3 }
    expect(loadFactsOf(readLoadReport(report))).toMatchObject({
      decodeSlotsUsed: 3,
      models: [],
      arriving: [],
    })
    const used = { digest: 'abc', decodeSlotsUsed: 2, prefillTokensWaiting: '70', leases: 2 }
    const tiers = [{ name: 'hbm', leasedBytes: '10', capacityBytes: '512' }]
    const coming = { name: 'large', digest: 'def', profile: 'PROFILE_EXACT', phase: 'ARRIVAL_PHASE_FETCHING' }
    const load = loadFactsOf(
      readLoadReport({
        ...report,
        models: [
          { ...used, profile: 'PROFILE_PAPER', tiers },
          { ...used, profile: 'PROFILE_OF_A_LATER_RELEASE' },
        ],
        arrivals: [coming, { ...coming, profile: 'PROFILE_PAPER', phase: 'ARRIVAL_PHASE_FAILED' }],
      }),
    )
    expect(load.models).toMatchObject([
      {
        ...used,
        profile: 'paper',
        prefillTokensWaiting: 70,
        tiers: [{ leasedBytes: 10, capacityBytes: 512 }],
      },
    ])
    expect(load.arriving).toEqual([{ digest: 'def', profile: 'exact' }])
  })

  test('of its blocks names them as requests do, and the variant as its model does', () => {
    const hash = Buffer.from('00112233445566778899aabbccddeeff', 'hex')
    const variant = { numerics: 'PROFILE_EXACT', dtype: 'PRECISION_F32', layers: { first: 0, count: 6 } }
    const event = { deviceId: 'fpga-0', incarnation: '7', sequence: '3', variant, tier: 'hbm' }
    const change = readKvEvent({ ...event, stored: [hash.toString('base64')] })
    expect(change).toMatchObject({
      deviceId: 'fpga-0',
      incarnation: '7',
      sequence: 3,
      stored: hashesFromBytes([hash]),
      removed: hashesFromBytes([]),
      tier: 'hbm',
    })
    expect(change.variant).toBe(factsOf(readAdvertisement(advertisement)).models[0]?.variant)
    const part = { incarnation: 7n, sequence: 4n, hashes: [hash], variant: undefined }
    expect(readSnapshot([part, part], '7')).toMatchObject({
      sequence: 4,
      groups: [{ hashes: change.stored }, { hashes: change.stored }],
    })
    expect(() => readSnapshot([part], '8')).toThrow(/another life/)
    expect(() => readSnapshot([], '7')).toThrow(/empty/)
  })

  test('of its blocks is refused where a hash is none', () => {
    const event = { deviceId: 'fpga-0', incarnation: '7', sequence: '3' }
    for (const stored of ['text', [7], [Buffer.alloc(15).toString('base64')]]) {
      expect(() => readKvEvent({ ...event, stored })).toThrow(/hash/)
    }
  })

  test('is refused where it names no device, no life or no endpoint, or is no message at all', () => {
    for (const missing of ['deviceId', 'incarnation', 'endpoints']) {
      expect(() => readAdvertisement({ ...advertisement, [missing]: undefined })).toThrow(/advertisement/)
    }
    for (const nonsense of [null, 7, 'text', [], {}]) {
      expect(() => readLoadReport(nonsense)).toThrow(/load report/)
    }
  })
})
