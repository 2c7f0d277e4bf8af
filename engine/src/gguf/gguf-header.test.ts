import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { InvalidInputError, KvasirError, UnsupportedError } from '@kvasir/runtime/errors'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { resolveModel } from '../model-files.js'
import { resolveGguf } from './gguf-model.js'
import { type MetadataEntry, type TensorToWrite, writeGguf } from './gguf-writer.js'
import { writeModelAsGguf } from './write-model.js'

let folder: string
let whole: Buffer
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kvasir-gguf-'))
  const path = join(folder, 'tiny.gguf')
  await writeModelAsGguf(await resolveModel('dummy:llama-tiny'), 'Q8_0', path)
  whole = readFileSync(path)
})
afterAll(() => rmSync(folder, { recursive: true }))

function withBytes(bytes: Uint8Array): string {
  const path = join(folder, 'damaged.gguf')
  writeFileSync(path, bytes)
  return path
}

/** Opens it and reads a tensor of each kind: whatever is wrong must be said by then. */
async function readAll(path: string): Promise<void> {
  const { config, openWeights, readTokenizer } = resolveGguf(path)
  await readTokenizer()
  const weights = openWeights()
  try {
    weights.read('model.norm.weight', [config.hiddenSize], new Float32Array(config.hiddenSize))
    weights.rows('model.embed_tokens.weight', [config.vocabularySize, config.hiddenSize])
  } finally {
    weights.close()
  }
}

const metadata = (changes: Readonly<Record<string, MetadataEntry | undefined>> = {}): MetadataEntry[] => {
  const entries: Record<string, MetadataEntry | undefined> = {
    architecture: ['general.architecture', 'string', 'llama'],
    context: ['llama.context_length', 'u32', 64],
    width: ['llama.embedding_length', 'u32', 64],
    layers: ['llama.block_count', 'u32', 1],
    inner: ['llama.feed_forward_length', 'u32', 64],
    heads: ['llama.attention.head_count', 'u32', 2],
    epsilon: ['llama.attention.layer_norm_rms_epsilon', 'f32', 1e-5],
    ...changes,
  }
  return Object.values(entries).filter((entry) => entry !== undefined)
}
const tensor = (name: string, shape: readonly number[] = [2, 64]): TensorToWrite => ({
  name,
  type: 'F32',
  shape,
  pieces: () => [new Uint8Array(4 * shape.reduce((product, size) => product * size, 1))],
})

function written(entries: readonly MetadataEntry[], tensors = [tensor('token_embd.weight')]): string {
  const path = join(folder, 'made.gguf')
  writeGguf(path, entries, tensors)
  return path
}

describe('a damaged file', () => {
  it('is refused by its name wherever it was cut off', async () => {
    const dataStart = whole.indexOf('blk.2.ffn_down.weight')
    const ends = [0, 3, 8, 23, 24, 100, 5_000, dataStart, whole.length - 32_000]
    for (const end of ends) {
      const error = await readAll(withBytes(whole.subarray(0, end))).catch((thrown: unknown) => thrown)
      expect(error, `cut at ${end}`).toBeInstanceOf(InvalidInputError)
      expect(String(error)).toContain('damaged.gguf')
      expect(String(error)).toMatch(/\.$/)
    }
  })

  it('never gets further than a typed error, whatever bytes of its header are wrong', async () => {
    const headerEnd = whole.indexOf('blk.2.ffn_down.weight')
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(headerEnd), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        async (changes) => {
          const bytes = Buffer.from(whole)
          for (const [at, byte] of changes) bytes[at] = byte
          const error = await readAll(withBytes(bytes)).catch((thrown: unknown) => thrown)
          if (error !== undefined) expect(error).toBeInstanceOf(KvasirError)
        },
      ),
      { numRuns: 150 },
    )
  })

  it('is refused for counts and lengths that it has no room for', async () => {
    const bytes = Buffer.from(whole)
    bytes.writeBigUInt64LE(1n << 60n, 8)
    await expect(readAll(withBytes(bytes))).rejects.toThrow('its header has the number 1152921504606846976')
    bytes.writeBigUInt64LE(1n << 40n, 8)
    await expect(readAll(withBytes(bytes))).rejects.toThrow('claims 1099511627776 tensors')
  })
})

it('is refused for more layers than it has tensors for', () => {
  const path = written(metadata({ layers: ['llama.block_count', 'u32', 0xffffffff] }))
  expect(() => resolveGguf(path)).toThrow('it claims 4294967295 layers and has 1 tensors')
})

it('is refused for a header that would fill memory, though the file has room for it', () => {
  const path = written(metadata({ many: ['made.bytes', 'strings', []] }))
  const bytes = readFileSync(path)
  const at = bytes.indexOf('made.bytes') + 'made.bytes'.length
  const large = Buffer.alloc(9 << 20)
  bytes.copy(large)
  // An array, already: of bytes, and so many of them.
  large.writeUInt32LE(0, at + 4)
  large.writeBigUInt64LE(BigInt((8 << 20) + 1), at + 8)
  expect(() => resolveGguf(withBytes(large))).toThrow('has an array of 8388609 values')
})

describe('what is not supported is refused by name', () => {
  it.each([
    [
      'another architecture',
      { architecture: ['general.architecture', 'string', 'gemma3'] },
      'architecture gemma3',
    ],
    [
      'a mixture of experts',
      { experts: ['llama.expert_count', 'u32', 8] },
      'is a mixture of 8 experts (llama)',
    ],
    ['a split file', { split: ['split.count', 'u32', 3] }, 'cut into 3 GGUF files'],
    ['yarn', { rope: ['llama.rope.scaling.type', 'string', 'yarn'] }, 'rope_scaling yarn'],
    ['partial rotation', { rope: ['llama.rope.dimension_count', 'u32', 16] }, 'rope.dimension_count 16'],
    ['values of another size', { value: ['llama.attention.value_length', 'u32', 64] }, 'value_length 64'],
  ] as const)('%s', (_, change, message) => {
    const path = written(metadata(change))
    expect(() => resolveGguf(path)).toThrow(UnsupportedError)
    expect(() => resolveGguf(path)).toThrow(message)
    expect(() => resolveGguf(path)).toThrow('The model made ')
  })

  it('a tensor that would be left out', () => {
    const path = written(metadata(), [tensor('token_embd.weight'), tensor('blk.0.attn_q.bias', [64])])
    expect(() => resolveGguf(path)).toThrow('has the tensor blk.0.attn_q.bias, which is not supported')
  })

  it('another version or byte order, and a file that is none', () => {
    const old = Buffer.from(whole)
    old.writeUInt32LE(1, 4)
    expect(() => resolveGguf(withBytes(old))).toThrow('has version 1 of GGUF')
    old.writeUInt32BE(3, 4)
    expect(() => resolveGguf(withBytes(old))).toThrow('is big-endian')
    expect(() => resolveGguf(withBytes(Buffer.alloc(100)))).toThrow('is no GGUF file')
  })

  it('a type of tensor that is not read', async () => {
    const bytes = Buffer.from(whole)
    const name = 'token_embd.weight'
    // After the name: the number of dimensions, two dimensions, then the type.
    bytes.writeUInt32LE(23, bytes.indexOf(name) + name.length + 4 + 16)
    await expect(readAll(withBytes(bytes))).rejects.toThrow(
      /token_embd\.weight in .* has the type IQ4_XS; use/,
    )
  })
})

it('says which setting is missing', () => {
  expect(() => resolveGguf(written(metadata({ inner: undefined })))).toThrow(
    'does not say its llama.feed_forward_length',
  )
})

it('takes what files leave out: one KV head a head, a tied head, a rotation base of 10,000', () => {
  const { config, name } = resolveGguf(written(metadata()))
  expect(name).toBe('made')
  expect(config).toMatchObject({ heads: 2, kvHeads: 2, headDim: 32, ropeTheta: 10_000, tiedEmbeddings: true })
  expect(config).toMatchObject({ vocabularySize: 2, slidingWindow: undefined, ropeScaling: undefined })
})

describe('scaling of rotary positions', () => {
  const scalingOf = (...entries: readonly MetadataEntry[]) =>
    resolveGguf(written([...metadata(), ...entries])).config.ropeScaling
  const linear = { kind: 'linear', factor: 4 }

  it('is linear where a file has a factor and names no kind, and under its older name', () => {
    expect(scalingOf(['llama.rope.scaling.factor', 'f32', 4])).toEqual(linear)
    expect(scalingOf(['llama.rope.scale_linear', 'f32', 4])).toEqual(linear)
  })

  it('is none where the file says so, or its factor changes nothing', () => {
    const factor = ['llama.rope.scaling.factor', 'f32', 4] as const
    expect(scalingOf(['llama.rope.scaling.type', 'string', 'none'], factor)).toBeUndefined()
    expect(scalingOf(['llama.rope.scaling.factor', 'f32', 0])).toBeUndefined()
    expect(scalingOf(['llama.rope.scale_linear', 'f32', 1])).toBeUndefined()
  })

  it('by pair takes factors above 0 alone', () => {
    const factors = (value: number): TensorToWrite => ({
      ...tensor('rope_freqs.weight', [16]),
      pieces: () => [new Uint8Array(new Float32Array(16).fill(value).buffer)],
    })
    const of = (value: number) =>
      resolveGguf(written(metadata(), [tensor('token_embd.weight'), factors(value)]))
    expect(of(8).config.ropeScaling).toEqual({ kind: 'by-pair', factors: Array(16).fill(8) })
    for (const value of [0, -1, Number.NaN]) expect(() => of(value)).toThrow('a number that is no factor')
  })
})
