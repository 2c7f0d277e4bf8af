import { InvalidInputError } from '@kvasir/runtime/errors'
import { describe, expect, it } from 'vitest'
import { deviceModel } from './device-model.js'
import { builtinCatalogue } from './load-catalogue.js'

const catalogue = builtinCatalogue()

describe('a model on a device', () => {
  it('leaves what the weights do not take for KV, in all memories', () => {
    const { weightBytes, weightMemory, kvMemories } = deviceModel(catalogue, {
      device: 'u280',
      model: 'llama-2-7b',
      preset: 'glitches',
    })
    expect(weightBytes).toBeCloseTo((6.738e9 * 4.226) / 8, -3)
    expect(weightMemory.name).toBe('hbm')
    expect(kvMemories.map(({ name, bytes }) => [name, Math.round(bytes / 1e8) / 10])).toEqual([
      ['hbm', 4.4],
      ['ddr', 32],
    ])
  })

  it('puts weights that do not fit in the nearest memory in the next, and times follow from it', () => {
    const { weightMemory, kvMemories } = deviceModel(catalogue, {
      device: 'u280',
      model: 'llama-2-13b',
      preset: 'glitches',
      weightBits: 8,
    })
    expect(weightMemory).toEqual({ name: 'ddr', bytesPerSecond: 38e9 })
    expect(kvMemories[0]).toEqual({ name: 'hbm', bytes: 8e9, bytesPerSecond: 460e9 })
  })

  it('takes bits other than the preset has', () => {
    const query = { device: 'a100-80-pcie', model: 'llama-3.1-8b', preset: 'vllm' }
    const at16 = deviceModel(catalogue, query)
    const at8 = deviceModel(catalogue, { ...query, weightBits: 8, kvBits: 8 })
    expect(at8.weightBytes).toBe(at16.weightBytes / 2)
    expect(at8.kvBytesPerToken).toBe(at16.kvBytesPerToken / 2)
    expect(at16.kvBytesPerToken).toBe(128 * 1024)
  })

  it.each([
    [
      { device: 'v100s', model: 'llama-2-70b', preset: 'glitches' },
      /138 GB at 16 bits.*hbm, has 32 GB; 106 GB are lacking/,
    ],
    [{ device: 'a100', model: 'llama-2-7b', preset: 'glitches' }, /no device a100;/],
    [
      { device: 'u280', model: 'llama-2-7', preset: 'glitches' },
      /no model llama-2-7; did you mean llama-2-7b/,
    ],
    [{ device: 'u280', model: 'llama-2-7b', preset: 'vlm' }, /no preset vlm; did you mean vllm/],
    [
      { device: 'h100-sxm', model: 'llama-2-7b', preset: 'glitches' },
      /no figures for h100-sxm.*take measured-gemm/,
    ],
    [{ device: 't4', model: 'llama-2-7b', preset: 'vllm' }, /add presets\.vllm\.devices\.t4/],
  ])('refuses %j and says what to do', (query, message) => {
    expect(() => deviceModel(catalogue, query)).toThrow(InvalidInputError)
    expect(() => deviceModel(catalogue, query)).toThrow(message)
  })
})
