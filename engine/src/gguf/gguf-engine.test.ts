/** GGUF files through the engine's graphs: the same bits as the original, and packed matrices used as they are stored. */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { f32ToF16 } from '../half-floats.js'
import { type ResolvedModel, resolveModel } from '../model-files.js'
import { EXACT, type Numerics } from '../numerics.js'
import { referenceLogits } from '../testing/reference-model.js'
import { writeTestModel } from '../testing/test-model.js'
import { Transformer } from '../transformer.js'
import { readGgufHeader } from './gguf-header.js'
import { type MetadataEntry, type TensorToWrite, writeGguf } from './gguf-writer.js'
import type { WritableType } from './quantize.js'
import { blockLayout } from './tensor-types.js'
import { writeModelAsGguf } from './write-model.js'

const hooks = { onLayer: () => {}, between: () => false }
/** As its matrices are stored, everything else in f32. */
const PACKED: Numerics = { weights: 'int4', pool: 'f32', wire: 'f32' }
const blocks = Uint32Array.from({ length: 4 }, (_, i) => i)

let folder: string
let original: ResolvedModel
let originalFolder: string
const loaded: Transformer[] = []
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kvasir-gguf-'))
  originalFolder = writeTestModel({ hidden_size: 256, intermediate_size: 512, tie_word_embeddings: false })
  original = { ...(await resolveModel(originalFolder)), readTokenizer: async () => undefined }
})
afterAll(async () => {
  for (const model of loaded) await model.release()
  rmSync(folder, { recursive: true })
  rmSync(dirname(originalFolder), { recursive: true })
})

async function written(model: ResolvedModel, type: WritableType): Promise<string> {
  const path = join(folder, `${model.name}-${type}.gguf`)
  await writeModelAsGguf(model, type, path)
  return path
}

async function load(model: string, numerics: Numerics): Promise<Transformer> {
  const transformer = await Transformer.load({ model, numerics, kvBlocksMax: 8 }, { threads: 1 }, () => false)
  loaded.push(transformer)
  return transformer
}

const tokens = Uint32Array.from({ length: 40 }, (_, i) => (i * 97 + 13) % 300)

async function prefill(model: Transformer): Promise<Float32Array> {
  return (await model.step([{ blocks, start: 0, tokens, wantLogits: true }], hooks)).logits
}

async function decode(model: Transformer): Promise<Float32Array> {
  let logits = new Float32Array(0)
  for (const [start, token] of tokens.entries()) {
    const part = { blocks, start, tokens: Uint32Array.of(token), wantLogits: true }
    logits = Float32Array.from((await model.step([part], hooks)).logits)
  }
  return logits
}

function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const dot = (x: ArrayLike<number>, y: ArrayLike<number>) =>
    Array.from(x).reduce((sum, value, i) => sum + value * (y[i] ?? 0), 0)
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))
}

it.each(['F32', 'F16'] as const)('skald as %s has the bits of skald', async (type) => {
  const skald = await resolveModel('skald')
  const [expected, got] = [await load('skald', EXACT), await load(await written(skald, type), EXACT)]
  expect(got.facts).toMatchObject({ name: `skald-${type}`, parameters: expected.facts.parameters })
  expect(await prefill(got)).toEqual(await prefill(expected))
})

describe.each(['Q8_0', 'Q4_0', 'Q4_K'] as const)('%s', (type) => {
  it('in profile exact is computed from its numbers in f32', async () => {
    const path = await written(original, type)
    const { config, openWeights } = await resolveModel(path)
    const weights = openWeights()
    const expected = referenceLogits(config, weights, [...tokens])
    weights.close()
    const logits = await prefill(await load(path, EXACT))
    for (const [i, value] of logits.entries()) expect(Math.abs(value - (expected[i] ?? 0))).toBeLessThan(1e-3)
  })

  it('with packed weights gives nearly the same, and the same bits token by token', async () => {
    const path = await written(original, type)
    const { config, openWeights } = await resolveModel(path)
    const weights = openWeights()
    const expected = referenceLogits(config, weights, [...tokens])
    weights.close()
    const model = await load(path, PACKED)
    const logits = await prefill(model)
    // Only activations are rounded; weights in 4 bits once more would cost far more (gguf-model.test.ts).
    expect(cosine(logits, expected)).toBeGreaterThan(0.9995)
    expect(await decode(model)).toEqual(logits)
    expect(model.facts.weightBytes).toBeLessThan(model.facts.parameters * (type === 'Q8_0' ? 1.2 : 0.8))
  })
})

type Opened = ReturnType<typeof opened>

function opened(path: string) {
  const descriptor = openSync(path, 'r')
  const { metadata, tensors } = readGgufHeader({ path, descriptor })
  closeSync(descriptor)
  return { metadata, tensors, bytes: readFileSync(path) }
}

/** A tensor of a file as it is stored there. */
function stored({ tensors, bytes }: Opened, name: string): TensorToWrite {
  const found = tensors.get(name)
  if (found?.type === undefined) throw new Error(`no ${name}`)
  return { ...found, name, type: found.type, pieces: () => [bytes.subarray(found.start, found.end)] }
}

/** A file with the settings of another one, and its tensors as `tensorOf` gives them. */
function rewritten(file: Opened, name: string, tensorOf: (name: string) => TensorToWrite): string {
  const entries = [...file.metadata].flatMap(([key, value]): MetadataEntry[] => {
    if (key.startsWith('tokenizer.')) return []
    if (typeof value === 'string') return [[key, 'string', value]]
    return typeof value === 'number' ? [[key, Number.isInteger(value) ? 'u32' : 'f32', value]] : []
  })
  const path = join(folder, `${name}.gguf`)
  writeGguf(path, entries, [...file.tensors.keys()].map(tensorOf))
  return path
}

it('joins what is stored in several types, as Q4_K_M files have it', async () => {
  const [small, large] = [opened(await written(original, 'Q4_K')), opened(await written(original, 'Q8_0'))]
  const path = rewritten(small, 'mixed', (name) =>
    stored(/attn_v|ffn_down|output/.test(name) ? large : small, name),
  )
  const exact = await prefill(await load(path, EXACT))
  const model = await load(path, PACKED)
  const logits = await prefill(model)
  expect(cosine(logits, exact)).toBeGreaterThan(0.9995)
  expect(await decode(model)).toEqual(logits)
})

/** The types that are read and not written: where a block has its halves, and what they are, for weights of about 1/16. */
const READ_ONLY = {
  Q4_1: [
    [0, 0.014],
    [2, -0.1],
  ],
  Q5_0: [[0, 0.007]],
  Q5_1: [
    [0, 0.007],
    [2, -0.1],
  ],
  Q5_K: [
    [0, 0.00022],
    [2, 0.0034],
  ],
  Q6_K: [[208, 0.00005]],
} as const

/** A tensor of random quants. */
function randomTensor(
  type: keyof typeof READ_ONLY,
  { name, shape }: TensorToWrite,
  next: () => number,
): TensorToWrite {
  const { elements, bytes } = blockLayout(type)
  const blockCount = shape.reduce((product, size) => product * size, 1) / elements
  const view = new DataView(new ArrayBuffer(blockCount * bytes))
  for (let i = 0; i < view.byteLength; i++) view.setUint8(i, next())
  for (let block = 0; block < blockCount; block++) {
    for (const [at, value] of READ_ONLY[type]) view.setUint16(block * bytes + at, f32ToF16(value), true)
  }
  return { name, shape, type, pieces: () => [new Uint8Array(view.buffer)] }
}

it.each(['Q4_1', 'Q5_0', 'Q5_1', 'Q5_K', 'Q6_K'] as const)(
  '%s, packed, gives nearly what it gives in f32, and the same bits token by token',
  async (type) => {
    let state = 7
    const next = () => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      return state >>> 24
    }
    const file = opened(await written(original, 'Q4_K'))
    const path = rewritten(file, type, (name) => {
      const tensor = stored(file, name)
      return tensor.type === 'Q4_K' && name !== 'token_embd.weight'
        ? randomTensor(type, tensor, next)
        : tensor
    })
    const exact = await prefill(await load(path, EXACT))
    const model = await load(path, PACKED)
    const logits = await prefill(model)
    expect(model.facts.weightBytes).toBeLessThan(model.facts.parameters * 1.6)
    expect(cosine(logits, exact)).toBeGreaterThan(0.999)
    expect(await decode(model)).toEqual(logits)
  },
)
