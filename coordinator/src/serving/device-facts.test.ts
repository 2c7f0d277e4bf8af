import { describe, expect, test } from 'vitest'
import { factsOf, readAdvertisement, readLoad } from './device-facts.js'

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
      parameters: '3000000',
      weightBytes: '12000000',
    },
    { name: 'unset', digest: 'def' },
  ],
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
  })

  test('is refused where it names no device, no life or no endpoint, or is no message at all', () => {
    for (const missing of ['deviceId', 'incarnation', 'endpoints']) {
      expect(() => readAdvertisement({ ...advertisement, [missing]: undefined })).toThrow(/advertisement/)
    }
    for (const nonsense of [null, 7, 'text', [], {}]) {
      expect(() => readLoad(nonsense)).toThrow(/load report/)
    }
  })
})
