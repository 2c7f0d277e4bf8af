import { describe, expect, test } from 'vitest'
import { hashesFromBytes } from '../hash-words.js'
import { factsOf, readAdvertisement, readKvEvent, readLoadReport, readSnapshot } from './device-facts.js'

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

  test('is refused where it names no device, no life or no endpoint, or is no message at all', () => {
    for (const missing of ['deviceId', 'incarnation', 'endpoints']) {
      expect(() => readAdvertisement({ ...advertisement, [missing]: undefined })).toThrow(/advertisement/)
    }
    for (const nonsense of [null, 7, 'text', [], {}]) {
      expect(() => readLoadReport(nonsense)).toThrow(/load report/)
    }
  })
})
