import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { deviceModel } from './device-model.js'
import { deviceTimes } from './device-times.js'
import { builtinCatalogue, loadCatalogue } from './load-catalogue.js'

let folder: string
let written = 0

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvasir-catalogue-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

function fileOf(text: string): string {
  written += 1
  const file = join(folder, `mine-${written}.yaml`)
  writeFileSync(file, text)
  return file
}

describe('the built-in catalogue', () => {
  const catalogue = builtinCatalogue()

  it('says of every number who says so', () => {
    for (const specs of Object.values(catalogue)) {
      expect(specs.size).toBeGreaterThan(0)
      for (const [id, { sources }] of specs) {
        expect(Object.keys(sources).length, id).toBeGreaterThan(0)
        // A number without a source is said by the line it stands in, which is no source for ours.
        for (const [path, source] of Object.entries(sources))
          expect(source, `${id} ${path}`).not.toMatch(/\.yaml:\d/)
      }
    }
  })

  it('has models whose parameters follow from their shapes', () => {
    for (const { id, experts, tiedEmbeddings, ...shape } of catalogue.models.values()) {
      if (experts !== undefined) continue
      const { hidden, heads, kvHeads, headDim, feedForward, vocabulary, layers } = shape
      const attention = 2 * hidden * heads * headDim + 2 * hidden * kvHeads * headDim
      const products = id.startsWith('opt') ? 2 : 3
      const tables = (tiedEmbeddings ? 1 : 2) * vocabulary * hidden
      const parameters = layers * (attention + products * hidden * feedForward) + tables
      expect(Math.abs(shape.parameters / parameters - 1), id).toBeLessThan(0.002)
    }
  })

  it('has published sizes of KV', () => {
    const kibOf = (id: string) => ((catalogue.models.get(id)?.kvValuesPerToken ?? 0) * 2) / 1024
    expect(['llama-2-7b', 'qwen2.5-0.5b', 'gpt-oss-120b', 'opt-66b'].map(kibOf)).toEqual([512, 12, 72, 2304])
    expect(kibOf('deepseek-v3')).toBeCloseTo(68.6, 1)
  })

  it('keeps out of the traps of public catalogues', () => {
    const compute = (id: string) => catalogue.devices.get(id)?.compute
    expect(compute('h100-sxm')?.fp16).toBe(989.4e12)
    expect(catalogue.devices.get('a10')?.memories[0]?.bytes).toBe(24e9)
    expect(catalogue.devices.get('v80')?.memories[0]?.bytesPerSecond).toBe(820e9)
    expect(catalogue.models.get('opt-13b')?.hidden).toBe(5120)
    expect(catalogue.models.get('llama-2-7b')?.kvHeads).toBe(32)
    expect(catalogue.models.get('llama-2-7b')?.vocabulary).toBe(32_000)
  })

  it('has a link for every device, and rates of links that do not exceed the standard', () => {
    for (const { id, link } of catalogue.devices.values()) expect(catalogue.links.has(link), id).toBe(true)
    for (const { id, bytesPerSecond, rawBytesPerSecond } of catalogue.links.values()) {
      expect(bytesPerSecond, id).toBeLessThanOrEqual(rawBytesPerSecond)
    }
  })
})

describe("a user's file", () => {
  it('changes one number: the times move, and its source is the line', () => {
    const file = fileOf('devices:\n  u280:\n    memories:\n      hbm:\n        bytesPerSecond: 920e9\n')
    const query = { device: 'u280', model: 'llama-2-7b', preset: 'glitches' }
    const stepMs = (catalogue = builtinCatalogue()) =>
      deviceTimes(deviceModel(catalogue, query)).stepMs({ prefills: [], decodes: [1792] })
    const changed = loadCatalogue([file])
    expect(stepMs(changed)).toBeCloseTo(stepMs() / 2)
    const u280 = changed.devices.get('u280')
    expect(u280?.memories).toEqual([
      { name: 'hbm', bytes: 8e9, bytesPerSecond: 920e9 },
      { name: 'ddr', bytes: 32e9, bytesPerSecond: 38e9 },
    ])
    expect(u280?.sources['memories.hbm.bytesPerSecond']).toBe(`${file}:5`)
    expect(u280?.sources['memories.hbm.bytes']).toMatch(/DS963/)
  })

  it('adds a device, whole or like another, and its use', () => {
    const catalogue = loadCatalogue([
      fileOf(`
devices:
  u280-big:
    like: u280
    name: U280 with more memory
    source: our own build
    memories: { hbm: { bytes: 16e9 }, ddr: null }
    idleWatts: null
presets:
  glitches:
    devices:
      u280-big: { computePrecision: int8, prefillCompute: 0.2, decodeBandwidth: 0.5, weightBits: 4.25, kvBits: 8, decodesAtOnce: 2, fusesSteps: false }
`),
    ])
    const device = catalogue.devices.get('u280-big')
    expect(device?.memories).toEqual([{ name: 'hbm', bytes: 16e9, bytesPerSecond: 460e9 }])
    expect(device?.idleWatts).toBeUndefined()
    expect(device?.sources['memories.hbm.bytes']).toBe('our own build')
    expect(device?.sources['memories.hbm.bytesPerSecond']).toMatch(/DS963/)
    const { use } = deviceModel(catalogue, { device: 'u280-big', model: 'llama-2-7b', preset: 'glitches' })
    expect(use.decodesAtOnce).toBe(2)
  })

  it('may build on one before it', () => {
    const first = fileOf(
      'links:\n  ours: { name: Ours, bytesPerSecond: 1e9, rawBytesPerSecond: 2e9, latencyUs: 3 }\n',
    )
    const second = fileOf('devices:\n  u280: { link: ours }\nlinks:\n  ours: { latencyUs: 0 }\n')
    const catalogue = loadCatalogue([first, second])
    expect(catalogue.devices.get('u280')?.link).toBe('ours')
    expect(catalogue.links.get('ours')).toMatchObject({ bytesPerSecond: 1e9, latencyUs: 0 })
  })

  const model =
    'name: M, layers: 2, hidden: 64, heads: 4, headDim: 16, feedForward: 128, contextTokensMax: 100'
  it.each([
    [
      'a negative bandwidth',
      'devices:\n  u280:\n    memories:\n      hbm: { bytesPerSecond: -1 }',
      4,
      /memories\.hbm\.bytesPerSecond of the device u280 is -1; it must be bytes a second above 0, such as 1935e9/,
    ],
    [
      'a number as a text',
      'links:\n  100gbe:\n    bytesPerSecond: 12 GB/s',
      3,
      /is "12 GB\/s"; it must be bytes a second above 0/,
    ],
    [
      'an unknown precision',
      'devices:\n  u280:\n    compute:\n      int9: 1e12',
      4,
      /no field compute\.int9; did you mean int[48]/,
    ],
    [
      'a precision that the device lacks',
      'presets:\n  glitches:\n    devices:\n      u280:\n        computePrecision: fp16',
      5,
      /u280 has no rate for fp16; it has int8/,
    ],
    [
      'a link that is not there',
      'devices:\n  u280:\n    link: pcie9-x16',
      3,
      /no link pcie9-x16; did you mean pcie[345]-x16/,
    ],
    [
      'a field that does not exist',
      'devices:\n  u280:\n    dolars: 3',
      3,
      /no field dolars; did you mean dollars/,
    ],
    [
      'a field that does not exist further in',
      'devices:\n  u280:\n    memories:\n      hbm: { byte: 3 }',
      4,
      /no field memories\.hbm\.byte; did you mean bytes/,
    ],
    ['an id twice', 'devices:\n  a:\n    like: u280\n  a:\n    like: u55c', 4, /second time; keep one/],
    [
      'a share above 1',
      'presets:\n  vllm:\n    devices:\n      u280:\n        prefillCompute: 40',
      5,
      /is 40; it must be what prefill reaches of the peak as a share above 0 and at most 1/,
    ],
    [
      'a field that is missing',
      'links:\n  mine:\n    name: Mine\n    bytesPerSecond: 1e9\n    latencyUs: 1',
      2,
      /the link mine lacks rawBytesPerSecond; it must be bytes a second/,
    ],
    [
      'a number that null takes away but must be there',
      'devices:\n  u280:\n    link: null',
      3,
      /lacks link; it must be the id of a link/,
    ],
    ['an unknown section', 'device:\n  u280: {}', 1, /no section device; did you mean devices/],
    [
      'a use of a device that is not there',
      'presets:\n  vllm:\n    devices:\n      u208: { kvBits: 8 }',
      4,
      /lacks|no device u208/,
    ],
    ['nobody to be like', 'devices:\n  a:\n    like: u28', 3, /no device u28; did you mean u280/],
    ['two that are like each other', 'devices:\n  a:\n    like: b\n  b:\n    like: a', 5, /which is like/],
    [
      'heads that do not divide',
      `models:\n  m: { ${model}, kvHeads: 3, vocabulary: 100, tiedEmbeddings: true, parameters: 1e6 }`,
      2,
      /kvHeads does not fit: 4 heads cannot share 3/,
    ],
    [
      'parameters fewer than the embeddings',
      `models:\n  m: { ${model}, kvHeads: 4, vocabulary: 100000, tiedEmbeddings: true, parameters: 1e6 }`,
      2,
      /the embeddings alone are more: vocabulary times hidden is 6400000/,
    ],
    [
      'a source of nothing',
      'devices:\n  u280:\n    dollars: 1\n    sources: { dollar: shop }',
      4,
      /sources names dollar.*did you mean dollars/,
    ],
    ['text that is no YAML', 'devices:\n  u280: {', 2, /not YAML/],
    ['a list', 'devices:\n  - u280', 1, /a list stands here/],
  ])('is refused with its line: %s', (_what, text, line, message) => {
    const file = fileOf(text)
    const load = () => loadCatalogue([file])
    expect(load).toThrow(InvalidInputError)
    expect(load).toThrow(message)
    expect(load).toThrow(`${file}:${line}:`)
  })

  it('that cannot be read is refused by name', () => {
    expect(() => loadCatalogue([join(folder, 'none.yaml')])).toThrow(
      /The catalogue file .*none\.yaml cannot be read/,
    )
  })
})
