import { describe, expect, it } from 'vitest'
import { BLOCK_TOKENS } from './device-driver.js'
import { dummyWeights } from './dummy-model.js'
import { dummyConfig } from './dummy-shapes.js'
import { checkMemory, memoryNeed } from './model-memory.js'
import { parameterCount } from './model-plan.js'
import { EXACT, PAPER_QUANTISED } from './numerics.js'
import { createOrtDriver } from './ort-driver.js'
import type { PackedLayout } from './packed-matrix.js'
import { weightSizes } from './weight-sizes.js'

const GB = 1e9
const llama7b = (numerics: typeof EXACT, contexts = 1) => {
  const config = dummyConfig('llama-2-7b')
  const blocks = (contexts * config.contextTokensMax) / BLOCK_TOKENS
  return memoryNeed(config, dummyWeights('llama-2-7b'), numerics, blocks)
}

describe('memory of a model', () => {
  it('is 4 bytes a weight in f32 and seven bits in int4, the head eleven', () => {
    // Embeddings of a generated model take none.
    const weights = 6_738_415_616 - 32_000 * 4096
    expect(llama7b(EXACT).weightBytes / (weights * 4)).toBeCloseTo(1, 3)
    const head = 32_000 * 4096
    expect(llama7b(PAPER_QUANTISED).weightBytes).toBeCloseTo((weights - head) * 0.875 + head * 1.375, -6)
  })

  it('is KV of all layers and heads, a quarter and the scales in int8, and the bounds of its pages', () => {
    const bounds = 1 / 16
    const context = 4096 * 32 * 32 * 128 * 2
    expect(llama7b(EXACT, 2).poolBytes).toBe(2 * context * 4 * (1 + bounds))
    expect(llama7b(PAPER_QUANTISED).poolBytes).toBe(context * (1 + 4 / 128 + 4 * bounds))
  })

  it('counts embeddings as they are stored, beside a head that is the same table', () => {
    const config = dummyConfig('qwen-tiny')
    const table = config.vocabularySize * config.hiddenSize
    const source = { ...dummyWeights('qwen-tiny'), storedBytes: () => 2 * table }
    const without = weightSizes(config, dummyWeights('qwen-tiny'), 'f32').residentBytes
    expect(weightSizes(config, source, 'f32').residentBytes - without).toBe(2 * table)
    expect(without).toBeGreaterThan(table * 4)
  })

  it('that is stored in a few bits already is what it is there', () => {
    const config = dummyConfig('llama-tiny')
    const plain = dummyWeights('llama-tiny')
    const layout: PackedLayout = { bits: 8, blockSize: 16, hasOffsets: true }
    const source = { ...plain, packedLayout: () => layout }
    const weights = parameterCount(config) - (2 * 3 + 1) * config.hiddenSize - 515 * config.hiddenSize
    // Rows of 72 and 180 elements are filled up to whole blocks.
    const bytes = weightSizes(config, source, 'int4').residentBytes
    expect(bytes / weights).toBeGreaterThan(2)
    expect(bytes / weights).toBeLessThan(2.2)
    expect(weightSizes(config, source, 'f32')).toEqual(weightSizes(config, plain, 'f32'))
  })
})

describe('a load', () => {
  it('is refused where memory does not suffice, and told what it needs and lacks', () => {
    const need = llama7b(EXACT)
    const refused = () => checkMemory('dummy:llama-2-7b', EXACT, need, 24 * GB)
    expect(refused).toThrow(
      'The model dummy:llama-2-7b needs 33.5 GB of memory: 26.4 GB for weights in f32, 4.56 GB for KV and 2.47 GB to work with; 24 GB are available here, so 9.46 GB are lacking.',
    )
    expect(refused).toThrow(expect.objectContaining({ code: 'overloaded' }))
    expect(() => checkMemory('dummy:llama-2-7b', EXACT, need, 34 * GB)).not.toThrow()
    expect(() =>
      checkMemory('dummy:llama-2-7b', PAPER_QUANTISED, llama7b(PAPER_QUANTISED), 8.2 * GB),
    ).not.toThrow()
  })

  it('is refused by the device before it begins', async () => {
    const driver = await createOrtDriver()
    try {
      // No machine has as much: 131 TB for KV.
      const load = driver.loadModel({ model: 'dummy:llama-2-7b', numerics: EXACT, kvBlocksMax: 1 << 24 })
      await expect(load).rejects.toMatchObject({
        code: 'overloaded',
        message: expect.stringMatching(/for weights in f32, .* TB for KV .* are lacking/),
      })
    } finally {
      await driver.close()
    }
  })
})
