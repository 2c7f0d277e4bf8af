import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ModelConfig } from '../model-config.js'
import { type ResolvedModel, resolveModel } from '../model-files.js'
import { referenceLogits } from '../testing/reference-model.js'
import { writeTestModel } from '../testing/test-model.js'
import type { WeightSource } from '../weight-source.js'
import { modelTensors } from './gguf-config.js'
import type { WritableType } from './quantize.js'
import { writeModelAsGguf } from './write-model.js'

let folder: string
const folders: string[] = []
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvasir-gguf-'))
})
afterAll(() => {
  rmSync(folder, { recursive: true })
  for (const made of folders) rmSync(dirname(made), { recursive: true })
})

async function asGguf(original: ResolvedModel, type: WritableType): Promise<ResolvedModel> {
  const path = join(folder, `${original.name.replace(':', '-')}-${type}.gguf`)
  await writeModelAsGguf(original, type, path)
  return resolveModel(path)
}

async function testModel(changes: Parameters<typeof writeTestModel>[0]): Promise<ResolvedModel> {
  const path = writeTestModel(changes)
  folders.push(path)
  const model = await resolveModel(path)
  // The tokenizer is not what these tests are about.
  return { ...model, readTokenizer: async () => undefined }
}

function shapeOf(tensor: string, { hiddenSize, vocabularySize, ...config }: ModelConfig): number[] {
  const { heads, kvHeads, headDim, intermediateSize } = config
  if (/embed_tokens|lm_head/.test(tensor)) return [vocabularySize, hiddenSize]
  if (/[qk]_norm/.test(tensor)) return [headDim]
  const width = tensor.includes('q_proj') ? heads * headDim : kvHeads * headDim
  if (/[qkv]_proj/.test(tensor)) return tensor.endsWith('bias') ? [width] : [width, hiddenSize]
  if (tensor.includes('o_proj')) return [hiddenSize, heads * headDim]
  if (/gate_proj|up_proj/.test(tensor)) return [intermediateSize, hiddenSize]
  return tensor.includes('down_proj') ? [hiddenSize, intermediateSize] : [hiddenSize]
}

function readWhole(weights: WeightSource, tensor: string, shape: readonly number[]): Float32Array {
  const values = new Float32Array(shape.reduce((product, size) => product * size, 1))
  weights.read(tensor, shape, values)
  return values
}

function isSame(a: Float32Array, b: Float32Array): boolean {
  const bytes = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength)
  return bytes(a).equals(bytes(b))
}

const MODELS: Record<string, () => Promise<ResolvedModel>> = {
  skald: () => resolveModel('skald'),
  'a generated model': () => resolveModel('dummy:llama-tiny'),
  'Qwen2, with biases': () => testModel({ architectures: ['Qwen2ForCausalLM'], tie_word_embeddings: false }),
  'Qwen3, with norms of heads': () => testModel({ architectures: ['Qwen3ForCausalLM'], head_dim: 128 }),
  'Mistral, with a window': () =>
    testModel({ architectures: ['MistralForCausalLM'], sliding_window: 24, num_key_value_heads: 4 }),
}

describe.each(Object.entries(MODELS))('%s written as F32', (_, make) => {
  it('is the same model: configuration, every tensor bit by bit, whole or by rows', async () => {
    const original = await make()
    const model = await asGguf(original, 'F32')
    expect(model.config).toMatchObject({
      ...original.config,
      normEpsilon: Math.fround(original.config.normEpsilon),
      stopTokens: model.stopTokens,
    })
    const [expected, weights] = [original.openWeights(), model.openWeights()]
    for (const tensor of modelTensors(model.config)) {
      const shape = shapeOf(tensor, model.config)
      const values = readWhole(weights, tensor, shape)
      expect(isSame(values, readWhole(expected, tensor, shape)), tensor).toBe(true)
      const [rows = 0, columns] = shape
      if (columns === undefined) continue
      const [first, count] = [Math.floor(rows / 3), Math.floor(rows / 2)]
      const some = new Float32Array(count * columns)
      weights.readRows(tensor, [rows, columns], first, some)
      expect(isSame(some, values.subarray(first * columns, (first + count) * columns)), tensor).toBe(true)
      expect(weights.packed?.(tensor, [rows, columns])).toBeUndefined()
    }
    weights.close()
    expected.close()
  })
})

it('has the file as its identity and as all that another machine needs', async () => {
  const model = await asGguf(await resolveModel('skald'), 'F16')
  const { path = '' } = model
  expect(model).toMatchObject({ name: 'skald-F16', stopTokens: [1] })
  expect(await model.digest()).toBe(createHash('sha256').update(readFileSync(path)).digest('hex'))
  expect(await model.files()).toContainEqual({ name: 'skald-F16.gguf', path, text: false })
  expect((await resolveModel(folder).catch(String)).toString()).toContain('GGUF files; name one of them')
})

it('keeps a scaling of frequencies that only Hugging Face has words for', async () => {
  const original = await testModel({})
  const llama3 = {
    kind: 'llama3',
    factor: 8,
    lowFrequencyFactor: 1,
    highFrequencyFactor: 4,
    originalContextTokens: 128,
  } as const
  const { config } = await asGguf({ ...original, config: { ...original.config, ropeScaling: llama3 } }, 'F32')
  const { ropeScaling } = config
  if (ropeScaling?.kind !== 'by-pair') throw new Error('no factors')
  expect(ropeScaling.factors).toHaveLength(16)
  expect(ropeScaling.factors[0]).toBe(1)
  expect(ropeScaling.factors.at(-1)).toBe(8)
  // In between the frequency is a mean of kept and stretched.
  expect(ropeScaling.factors.some((factor) => factor > 1 && factor < 8)).toBe(true)
  const linear = { kind: 'linear', factor: 4 } as const
  const scaled = await asGguf({ ...original, config: { ...original.config, ropeScaling: linear } }, 'F32')
  expect(scaled.config.ropeScaling).toEqual(linear)
})

describe('quantised', () => {
  const tokens = Array.from({ length: 24 }, (_, i) => (i * 97 + 13) % 300)
  const cosine = (a: Float64Array, b: Float64Array) => {
    const dot = (x: Float64Array, y: Float64Array) =>
      x.reduce((sum, value, i) => sum + value * (y[i] ?? 0), 0)
    return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))
  }

  /** Cosines of logits with those of the original: 1 is equal, random weights make it harder than a trained model does. */
  it.each([
    ['Q8_0', 0.999],
    ['Q4_0', 0.93],
    ['Q4_K', 0.95],
  ] as const)('%s: logits point where those of F32 do', async (type, bound) => {
    const original = await testModel({ hidden_size: 256, intermediate_size: 512 })
    const model = await asGguf(original, type)
    const [exact, weights] = [original.openWeights(), model.openWeights()]
    const expected = referenceLogits(original.config, exact, tokens)
    expect(cosine(referenceLogits(model.config, weights, tokens), expected)).toBeGreaterThan(bound)
    exact.close()
    weights.close()
  })

  it.each(['Q8_0', 'Q4_0', 'Q4_K'] as const)(
    '%s: packed matrices hold what is read, rows of q and k in our order',
    async (type) => {
      const model = await asGguf(await testModel({ hidden_size: 256, intermediate_size: 512 }), type)
      const weights = model.openWeights()
      for (const part of ['self_attn.q_proj', 'self_attn.k_proj', 'mlp.up_proj']) {
        const tensor = `model.layers.1.${part}.weight`
        const shape = shapeOf(tensor, model.config) as [number, number]
        const values = readWhole(weights, tensor, shape)
        const packed = weights.packed?.(tensor, shape)
        if (packed === undefined) throw new Error('not packed')
        expect(packed).toMatchObject({ bits: type === 'Q8_0' ? 8 : 4, blockSize: 32, columns: 256 })
        const { bits, quants, scales, offsets } = packed
        for (const [i, value] of values.entries()) {
          const quant = bits === 8 ? (quants[i] ?? 0) : ((quants[i >> 1] ?? 0) >> (4 * (i % 2))) & 15
          const element = (quant - 2 ** (bits - 1)) * (scales[i >> 5] ?? 0) + (offsets?.[i >> 5] ?? 0)
          if (Math.abs(element - value) > 1e-6) expect.fail(`${tensor} at ${i}: ${element} is not ${value}`)
        }
      }
      weights.close()
    },
  )

  it('falls back to a type that fits where rows are no whole number of blocks', async () => {
    const { config, openWeights } = await asGguf(await resolveModel('dummy:llama-tiny'), 'Q4_K')
    const weights = openWeights()
    const exact = (await resolveModel('dummy:llama-tiny')).openWeights()
    const shape = [config.hiddenSize, config.intermediateSize]
    const tensor = 'model.layers.0.mlp.down_proj.weight'
    const [stored, expected] = [readWhole(weights, tensor, shape), readWhole(exact, tensor, shape)]
    for (const [i, value] of stored.entries()) {
      if (Math.abs(value - (expected[i] ?? 0)) > Math.abs(value) / 1024 + 1e-7) expect.fail(`element ${i}`)
    }
    weights.close()
  })
})
