import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { deviceModel } from './device-model.js'
import { type DeviceModel, deviceTimes, type StepWork } from './device-times.js'
import { builtinCatalogue } from './load-catalogue.js'

const catalogue = builtinCatalogue()

function of(device: string, preset = 'glitches', model = 'llama-2-7b'): DeviceModel {
  return deviceModel(catalogue, { device, model, preset })
}

const prefill = (count: number, start = 0): StepWork => ({ prefills: [{ start, count }], decodes: [] })
const decode = (...decodes: number[]): StepWork => ({ prefills: [], decodes })

describe("the paper's table", () => {
  // GLITCHES (HPEC'24), Llama-2-7B at [1536, 512]: a step is in the middle of the output, at 1,792 tokens.
  it.each([
    ['a100-80-pcie', 175.85, 24.26, 256.6, 167.3],
    ['v100s', 398.8, 29.52, 239.8, 222.5],
    ['u280', 5001.2, 21.5, 46, 46],
  ])('%s', (device, prefillMs, decodeMs, prefillWatts, decodeWatts) => {
    const times = deviceTimes(of(device))
    const within1Percent = (got: number, published: number) =>
      expect(Math.abs(got / published - 1)).toBeLessThan(0.01)
    within1Percent(times.stepMs(prefill(1536)), prefillMs)
    within1Percent(times.stepMs(decode(1792)), decodeMs)
    expect(times.stepWatts(prefill(1536))).toBeCloseTo(prefillWatts)
    expect(times.stepWatts(decode(1792))).toBeCloseTo(decodeWatts)
  })

  it('has the bytes of its steps', () => {
    const { stepWeightBytes, kvBytesPerToken } = of('a100-80-pcie')
    expect(Math.abs((stepWeightBytes + 1792 * kvBytesPerToken) / 14.08e9 - 1)).toBeLessThan(0.01)
    expect(of('u280').stepWeightBytes).toBeCloseTo(3.49e9, -7)
    expect(of('u280').kvBytesPerToken).toBe(262_144)
  })
})

describe('times of steps', () => {
  it('a prompt takes at least as long as reading what a decode step reads', () => {
    const times = deviceTimes(of('a100-80-pcie'))
    expect(times.stepMs(prefill(1))).toBe(times.stepMs(decode(1)))
  })

  it('chunks count as many operations as the whole prompt', () => {
    const times = deviceTimes(of('u280'))
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 32, max: 700 }), { minLength: 1, maxLength: 6 }), (chunks) => {
        let start = 0
        let chunkedMs = 0
        for (const count of chunks) {
          chunkedMs += times.stepMs(prefill(count, start))
          start += count
        }
        expect(chunkedMs).toBeCloseTo(times.stepMs(prefill(start)), 6)
      }),
    )
  })

  it('prompts and decodes follow each other, or share a step where the engine fuses them', () => {
    const work: StepWork = { prefills: [{ start: 0, count: 512 }], decodes: [300, 400] }
    const apart = deviceTimes(of('a100-80-pcie'))
    expect(apart.stepMs(work)).toBeCloseTo(apart.stepMs(prefill(512)) + apart.stepMs(decode(300, 400)))
    const fused = deviceTimes(of('a100-80-pcie', 'vllm'))
    const both = fused.stepMs(prefill(512)) + fused.stepMs(decode(300, 400))
    expect(fused.stepMs(work)).toBeLessThan(both)
    expect(fused.stepMs(work)).toBeGreaterThanOrEqual(fused.stepMs(prefill(512)))
  })

  it('memories are read side by side, so that KV in the far one counts only beyond the near one', () => {
    const model = of('u280')
    const times = deviceTimes(model)
    const kv = 2000 * model.kvBytesPerToken
    const allNear = times.stepMs(decode(2000))
    const reads = (near: number, far: number) => times.stepMs({ ...decode(2000), kvReadBytes: [near, far] })
    expect(reads(kv, 0)).toBe(allNear)
    expect(reads(0.95 * kv, 0.05 * kv)).toBeLessThan(allNear)
    expect(reads(0, kv)).toBeCloseTo(kv / (38e9 * 0.4008) / 1e-3, 3)
  })

  it('blocks that moved between memories are paid for, by a step that decodes nothing too', () => {
    const times = deviceTimes(of('u280'))
    const movedBytes = 10e9
    const moves = { kvReadBytes: [movedBytes, movedBytes] }
    // The far memory, which is the slower one, is busy longest.
    const farMs = movedBytes / (38e9 * 0.4008) / 1e-3
    expect(times.stepMs({ ...prefill(16), ...moves })).toBeCloseTo(farMs, 3)
    const both = { prefills: prefill(16).prefills, decodes: decode(100).decodes }
    expect(times.stepMs({ ...both, ...moves })).toBeCloseTo(times.stepMs(prefill(16)) + farMs, 3)
  })

  it('published speed-ups hold at their lengths, in between linearly, beyond flat, and only for decoding', () => {
    const plain = deviceTimes(of('u280'))
    const faster = deviceTimes(of('u280', 'glitches-prefetch'))
    const factor = (tokens: number) => plain.stepMs(decode(tokens)) / faster.stepMs(decode(tokens))
    expect(factor(16)).toBeCloseTo(1.2)
    expect(factor(128)).toBeCloseTo(1.2)
    expect(factor(576)).toBeCloseTo(1.18)
    expect(factor(1024)).toBeCloseTo(1.16)
    expect(factor(4096)).toBeCloseTo(1.16)
    expect(faster.stepMs(prefill(512))).toBe(plain.stepMs(prefill(512)))
  })

  it('a step of many tokens reads more experts, and never more than all weights', () => {
    const model = of('h100-sxm', 'vllm', 'gpt-oss-20b')
    const times = deviceTimes(model)
    const readBytes = (sequences: number) =>
      times.stepMs(decode(...Array<number>(sequences).fill(1))) * 1e-3 * 3350e9 * 0.6
    expect(readBytes(1)).toBeCloseTo(model.stepWeightBytes + model.kvBytesPerToken, -3)
    expect(readBytes(8)).toBeGreaterThan(3 * readBytes(1))
    expect(readBytes(64)).toBeLessThan(model.weightBytes)
  })

  it('a step in which more is done never takes less time', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(of('u280'), of('a100-80-pcie'), of('h100-sxm', 'vllm', 'gpt-oss-20b')),
        fc.array(fc.integer({ min: 1, max: 4000 }), { minLength: 1, maxLength: 5 }),
        fc.integer({ min: 1, max: 4000 }),
        (model, contexts, extra) => {
          const times = deviceTimes(model)
          const less = times.stepMs(decode(...contexts))
          expect(times.stepMs(decode(...contexts, extra))).toBeGreaterThan(less)
          expect(
            times.stepMs({ prefills: [{ start: 0, count: extra }], decodes: contexts }),
          ).toBeGreaterThanOrEqual(less)
        },
      ),
    )
  })

  it("power is a device's most where nobody published it for the work, and unknown where nobody published any", () => {
    expect(deviceTimes(of('h100-sxm', 'vllm')).stepWatts(decode(10))).toBe(700)
    expect(deviceTimes(of('vhk158', 'flightllm')).stepWatts(decode(10))).toBeUndefined()
    expect(deviceTimes(of('a100-80-pcie')).stepWatts({ prefills: [], decodes: [] })).toBe(58)
  })
})
