import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { resolveModel } from './model-files.js'
import { EXACT } from './numerics.js'
import {
  safetensorsBytes,
  type TestTensor,
  testConfig,
  testTensors,
  writeTestModel,
} from './testing/test-model.js'
import { Transformer } from './transformer.js'

const folders: string[] = []
const home = mkdtempSync(join(tmpdir(), 'kvasir-home-'))
let previousHome: string | undefined
beforeAll(() => {
  previousHome = process.env.KVASIR_HOME
  process.env.KVASIR_HOME = home
})
afterAll(() => {
  if (previousHome === undefined) delete process.env.KVASIR_HOME
  else process.env.KVASIR_HOME = previousHome
  for (const folder of [home, ...folders.map(dirname)]) rmSync(folder, { recursive: true, force: true })
})

function testModel(...options: Parameters<typeof writeTestModel>): string {
  const folder = writeTestModel(...options)
  folders.push(folder)
  return folder
}
const load = (model: string) =>
  Transformer.load({ model, numerics: EXACT, kvBlocksMax: 8 }, { threads: 1 }, () => false)
async function logitsOf(model: string): Promise<Float32Array> {
  const step = { blocks: Uint32Array.of(0), start: 0, tokens: Uint32Array.of(1, 2, 3), wantLogits: true }
  const { logits } = await (await load(model)).step([step], { onLayer: () => {}, between: () => false })
  return logits
}

/** Every tensor in a 16-bit type, by cutting the fraction of its f32 values. */
function halved(tensors: readonly TestTensor[], type: 'BF16' | 'F16'): TestTensor[] {
  return tensors.map((tensor) => {
    const values = new Float32Array(tensor.bytes.slice().buffer)
    const bits = new Uint32Array(values.buffer)
    const half = Uint16Array.from(bits, (word) => {
      if (type === 'BF16') return word >>> 16
      const exponent = ((word >>> 23) & 0xff) - 112
      return exponent <= 0 ? 0 : ((word >>> 16) & 0x8000) | (exponent << 10) | ((word >>> 13) & 0x3ff)
    })
    return { ...tensor, type, bytes: new Uint8Array(half.buffer) }
  })
}

/** The f32 values of such a tensor, worked out another way than the reader does. */
function widened(tensors: readonly TestTensor[]): TestTensor[] {
  return tensors.map((tensor) => {
    const half = new Uint16Array(tensor.bytes.slice().buffer)
    const values = Float32Array.from(half, (bits) => {
      const [fractionBits, bias] = tensor.type === 'BF16' ? [7, 127] : [10, 15]
      const exponent = (bits & 0x7fff) >> fractionBits
      const fraction = (bits & ((1 << fractionBits) - 1)) / (1 << fractionBits)
      const magnitude = exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias)
      return bits & 0x8000 ? -magnitude : magnitude
    })
    return { ...tensor, type: 'F32', bytes: new Uint8Array(values.buffer) }
  })
}

describe('weights', () => {
  it.each(['F16', 'BF16'] as const)('in %s compute as the same numbers in F32 do', async (type) => {
    const half = testModel({}, (config) => halved(testTensors(config), type))
    const whole = testModel({}, (config) => widened(halved(testTensors(config), type)))
    const logits = await logitsOf(half)
    expect(logits).toEqual(await logitsOf(whole))
    expect(logits.some((value) => value !== logits[0])).toBe(true)
  })

  it('in several files compute as in one', async () => {
    const folder = testModel()
    const tensors = testTensors(testConfig)
    const sharded = testModel()
    rmSync(join(sharded, 'model.safetensors'))
    const parts = [tensors.slice(0, 7), tensors.slice(7)]
    const weightMap: Record<string, string> = {}
    for (const [i, part] of parts.entries()) {
      const file = `model-0000${i + 1}-of-00002.safetensors`
      writeFileSync(join(sharded, file), safetensorsBytes(part))
      for (const { name } of part) weightMap[name] = file
    }
    const index = join(sharded, 'model.safetensors.index.json')
    writeFileSync(index, JSON.stringify({ metadata: {}, weight_map: weightMap }))
    expect(await logitsOf(sharded)).toEqual(await logitsOf(folder))

    rmSync(join(sharded, 'model-00002-of-00002.safetensors'))
    await expect(load(sharded)).rejects.toThrow('model-00002-of-00002.safetensors is damaged: it is missing')
    writeFileSync(index, JSON.stringify({ weight_map: { a: '../secret' } }))
    await expect(load(sharded)).rejects.toThrow('outside the folder')
    for (const file of ['..', '', 'tokenizer.json']) {
      writeFileSync(index, JSON.stringify({ weight_map: { a: file } }))
      await expect(load(sharded)).rejects.toThrow(/is damaged: it names .* no \.safetensors file/)
    }
  })
})

describe('files of real checkpoints', () => {
  /** Of zeros. */
  const tensor = (name: string, shape: readonly number[], type = 'F32'): TestTensor => {
    const elements = shape.reduce((product, size) => product * size, 1)
    return { name, type, shape, bytes: new Uint8Array(elements * (type === 'I64' ? 8 : 4)) }
  }

  it('may hold tensors that are not needed', async () => {
    const plain = testModel()
    const more = testModel({}, (config) => [
      // Old checkpoints of Llama store what RoPE works out, and some a head that is the table of embeddings.
      tensor('model.layers.0.self_attn.rotary_emb.inv_freq', [16]),
      tensor('model.layers.1.self_attn.rotary_emb.inv_freq', [16]),
      tensor('lm_head.weight', [300, 64]),
      tensor('model.embed_tokens.position_ids', [1, 8], 'I64'),
      ...testTensors(config),
    ])
    expect(await logitsOf(more)).toEqual(await logitsOf(plain))
  })

  it('are those of the index, whatever lies beside them', async () => {
    const plain = testModel()
    const folder = testModel()
    renameSync(join(folder, 'model.safetensors'), join(folder, 'model-00001-of-00001.safetensors'))
    const names = [...testTensors(testConfig).map(({ name }) => name), 'model.vision.patch.weight']
    const weightMap = Object.fromEntries(names.map((name) => [name, 'model-00001-of-00001.safetensors']))
    writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: weightMap }))
    // Mistral's repositories have the same weights once more, under other names.
    writeFileSync(
      join(folder, 'consolidated.safetensors'),
      safetensorsBytes([tensor('layers.0.attention.wq.weight', [128, 64])]),
    )
    writeFileSync(join(folder, 'pytorch_model.bin'), 'another format')
    expect(await logitsOf(folder)).toEqual(await logitsOf(plain))
  })

  it('are listed for those who fetch the model, with what is needed for text', async () => {
    const folder = testModel()
    for (const name of ['tokenizer.json', 'generation_config.json']) writeFileSync(join(folder, name), '{}')
    writeFileSync(join(folder, 'README.md'), 'A model.')
    const files = await (await resolveModel(folder)).files()
    expect(files).toEqual([
      { name: 'config.json', path: join(folder, 'config.json'), text: true },
      { name: 'generation_config.json', path: join(folder, 'generation_config.json'), text: true },
      { name: 'tokenizer.json', path: join(folder, 'tokenizer.json'), text: true },
      { name: 'model.safetensors', path: join(folder, 'model.safetensors'), text: false },
    ])
    const sharded = fileURLToPath(new URL('../fixtures/families/llama-3.2', import.meta.url))
    expect((await (await resolveModel(sharded)).files()).map(({ name, text }) => [name, text])).toEqual([
      ['config.json', true],
      ['model-00001-of-00002.safetensors', false],
      ['model-00002-of-00002.safetensors', false],
      ['model.safetensors.index.json', false],
    ])
    expect(await (await resolveModel('dummy:llama-tiny')).files()).toEqual([])
  })
})

describe('a name', () => {
  it('may be that of a GGUF file, or of a folder that holds a single one', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'kvasir-gguf-'))
    folders.push(join(folder, 'model'))
    writeFileSync(join(folder, 'one.gguf'), 'no GGUF')
    for (const spec of [folder, join(folder, 'one.gguf')]) {
      await expect(resolveModel(spec)).rejects.toThrow(`${join(folder, 'one.gguf')}`)
    }
    writeFileSync(join(folder, 'two.gguf'), 'no GGUF')
    await expect(resolveModel(folder)).rejects.toThrow('holds 2 GGUF files; name one of them')
    // A folder in Hugging Face layout is that, whatever else lies in it.
    const both = testModel()
    writeFileSync(join(both, 'other.gguf'), 'no GGUF')
    expect((await resolveModel(both)).name).toBe('test-model')
    writeFileSync(join(folder, 'notes.txt'), 'mine')
    await expect(resolveModel(join(folder, 'notes.txt'))).rejects.toThrow('is not a model')
  })
})

describe('what is refused, in one sentence', () => {
  const weightsOf = (folder: string) => join(folder, 'model.safetensors')
  const damage: [string, (folder: string) => void, string][] = [
    [
      'a truncated file',
      (f) => writeFileSync(weightsOf(f), readFileSync(weightsOf(f)).subarray(0, 90_000)),
      'is truncated',
    ],
    ['an empty file', (f) => writeFileSync(weightsOf(f), ''), 'has only 0 bytes'],
    [
      'a header that is no JSON',
      (f) =>
        writeFileSync(
          weightsOf(f),
          Buffer.concat([Buffer.from([4, 0, 0, 0, 0, 0, 0, 0]), Buffer.from('nope')]),
        ),
      'header is not JSON',
    ],
    [
      'a header longer than the file',
      (f) => writeFileSync(weightsOf(f), Buffer.alloc(16, 0x7f)),
      'longer than the file',
    ],
    ['no weights', (f) => rmSync(weightsOf(f)), 'has neither model.safetensors'],
    [
      'a config.json that is no JSON',
      (f) => writeFileSync(join(f, 'config.json'), '{'),
      'config.json is not valid JSON',
    ],
    [
      'no config.json',
      (f) => renameSync(join(f, 'config.json'), join(f, 'other.json')),
      'has no config.json',
    ],
  ] // prettier-ignore

  it.each(damage)('%s', async (_, harm, message) => {
    const folder = testModel()
    harm(folder)
    await expect(load(folder)).rejects.toMatchObject({
      code: 'invalid_input',
      message: expect.stringContaining(message),
    })
  })

  it('a missing tensor, one of another shape, of another size, of another type', async () => {
    const change = (name: string, edit: (tensor: TestTensor) => TestTensor[]) =>
      testModel({}, (config) => testTensors(config).flatMap((t) => (t.name === name ? edit(t) : [t])))
    await expect(load(change('model.norm.weight', () => []))).rejects.toThrow('no tensor model.norm.weight')
    const wide = change('model.norm.weight', (t) => [{ ...t, shape: [8, 8] }])
    await expect(load(wide)).rejects.toThrow('has shape [8,8] where config.json says [64]')
    const short = change('model.norm.weight', (t) => [{ ...t, bytes: t.bytes.subarray(4) }])
    await expect(load(short)).rejects.toThrow('has another size than its shape')
    const typed = change('model.norm.weight', (t) => [{ ...t, type: 'I32' }])
    await expect(load(typed)).rejects.toMatchObject({ code: 'unsupported' })
  })

  it('a model that is not there', async () => {
    await expect(resolveModel('/no/such/folder')).rejects.toMatchObject({ code: 'not_found' })
    await expect(resolveModel('no-such-model')).rejects.toThrow('There is no model no-such-model')
    await expect(resolveModel('dummy:huge')).rejects.toThrow('use one of dummy:llama-0.5b')
  })
})

describe('names and digests', () => {
  it('find a bundled model by its name and a folder by its path', async () => {
    const byName = await resolveModel('skald')
    const byPath = await resolveModel(byName.path ?? '')
    expect([byName.name, byPath.name]).toEqual(['skald', 'skald'])
    expect(await byName.digest()).toBe(await byPath.digest())
    expect(await byName.digest()).toMatch(/^[0-9a-f]{64}$/)
  })

  it('are of the contents: the same for a copy, another for another weight or setting', async () => {
    const digestOf = async (folder: string) => (await resolveModel(folder)).digest()
    const [a, b] = [testModel(), testModel()]
    const digest = await digestOf(a)
    expect(await digestOf(b)).toBe(digest)
    // What lies beside the weights does not count.
    mkdirSync(join(b, 'recall'))
    writeFileSync(join(b, 'recall', '512.jsonl'), '{}')
    writeFileSync(join(b, 'README.md'), 'A model.')
    expect(await digestOf(b)).toBe(digest)
    expect(await digestOf(testModel({ rope_theta: 20_000 }))).not.toBe(digest)
    const bytes = readFileSync(join(b, 'model.safetensors'))
    bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1
    writeFileSync(join(b, 'model.safetensors'), bytes)
    utimesSync(join(b, 'model.safetensors'), 1, 1)
    expect(await digestOf(b)).not.toBe(digest)
  })

  it('do without a cache folder', async () => {
    const folder = testModel()
    mkdirSync(join(home, 'file'), { recursive: true })
    writeFileSync(join(home, 'file', 'blocked'), '')
    process.env.KVASIR_HOME = join(home, 'file', 'blocked')
    expect(await (await resolveModel(folder)).digest()).toMatch(/^[0-9a-f]{64}$/)
    process.env.KVASIR_HOME = home
  })
})
