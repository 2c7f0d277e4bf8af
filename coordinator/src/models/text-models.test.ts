import { loadTextModel, type TextFiles, type TextModel } from '@kvasir/engine/text/text-model'
import { type Deferred, deferred } from '@kvasir/runtime/deferred'
import { createLogger } from '@kvasir/runtime/log'
import { projectRoot } from '@kvasir/runtime/state-folder'
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { type OfferedModel, TextModelRegistry } from './text-models.js'

const folder = `${projectRoot()}/models/skald`
let skald: TextModel
let tiny: TextModel
beforeAll(async () => {
  skald = await loadTextModel(folder)
  tiny = await loadTextModel('dummy:llama-tiny')
})

/** Digests that the user of the models has, in order of their coming. */
let used: string[]
let fetches: Deferred<TextFiles>[]
let warnings: string[]
let dropped: string[]
let registry: TextModelRegistry<OfferedModel>

beforeEach(() => {
  used = []
  fetches = []
  warnings = []
  dropped = []
  const log = createLogger({ service: 'test', terminal: false })
  vi.spyOn(log, 'warn').mockImplementation((...told: unknown[]) => void warnings.push(String(told.at(-1))))
  registry = new TextModelRegistry({
    user: {
      add: (digest) => void used.push(digest),
      drop: (digest) => void used.splice(used.indexOf(digest), 1),
    },
    fetch: () => {
      const fetched = deferred<TextFiles>()
      fetches.push(fetched)
      return fetched.promise
    },
    drop: async ({ folder }) => void dropped.push(folder),
    log,
  })
})
afterEach(() => {
  registry.close()
  vi.useRealTimers()
})

const tale = () => ({ name: 'tale', digest: skald.digest })
const files = (): TextFiles => ({ folder, ...tale() })

describe('a model that devices advertise', () => {
  test('can be asked for once its files are here, and a request waits for them', async () => {
    registry.update([tale()])
    expect(registry.names()).toEqual(['tale'])
    expect(registry.get('tale')).toBeUndefined()
    const waiting = registry.find('tale')
    fetches[0]?.resolve(files())
    expect(await waiting).toMatchObject({ name: 'tale', digest: skald.digest })
    expect(registry.get('tale')?.encode('Once')).toEqual(skald.encode('Once'))
    expect(used).toEqual([skald.digest])
  })

  test('goes when no device has it any more, also before it was here', async () => {
    registry.update([tale()])
    fetches[0]?.resolve(files())
    await registry.find('tale')
    registry.update([])
    expect(registry.names()).toEqual([])
    expect(await registry.find('tale')).toBeUndefined()
    expect(used).toEqual([])
    registry.update([tale()])
    const late = registry.find('tale')
    registry.update([])
    fetches[1]?.resolve(files())
    await expect(late).rejects.toMatchObject({ code: 'unavailable' })
    expect(used).toEqual([])
  })

  test('needs no files where it is generated, but the same version of it', async () => {
    registry.update([
      { name: tiny.name, digest: tiny.digest },
      { name: 'dummy:llama-0.5b', digest: 'of another release' },
    ])
    expect(await registry.find(tiny.name)).toMatchObject({ digest: tiny.digest })
    await expect(registry.find('dummy:llama-0.5b')).rejects.toThrow('another version')
    expect(fetches).toEqual([])
  })

  test('whose files do not come is tried again, and says so meanwhile', async () => {
    vi.useFakeTimers()
    registry.update([tale()])
    fetches[0]?.reject(new Error('the wire broke'))
    await expect(registry.find('tale')).rejects.toThrow('could not be had: the wire broke')
    await vi.advanceTimersByTimeAsync(3_000)
    expect(fetches).toHaveLength(2)
    fetches[1]?.resolve(files())
    expect(await registry.find('tale')).toMatchObject({ name: 'tale' })
  })
})

test('files that cannot be used are not kept, and are fetched anew', async () => {
  vi.useFakeTimers()
  registry.update([tale()])
  const broken = `${folder}/training`
  fetches[0]?.resolve({ ...files(), folder: broken })
  await expect(registry.find('tale')).rejects.toMatchObject({ code: 'unavailable' })
  expect(dropped).toEqual([broken])
  await vi.advanceTimersByTimeAsync(3_000)
  fetches[1]?.resolve(files())
  expect(await registry.find('tale')).toMatchObject({ name: 'tale' })
  expect(dropped).toEqual([broken])
})

describe('a name', () => {
  test('stands for the digest that was told first, until that is gone', async () => {
    const other = { name: 'tale', digest: 'ff'.repeat(32) }
    registry.update([tale(), other])
    registry.update([other, tale()])
    expect(registry.digestOf('tale')).toBe(skald.digest)
    expect(fetches).toHaveLength(1)
    expect(warnings).toEqual([expect.stringContaining('two models are called tale')])
    registry.update([other])
    expect(registry.digestOf('tale')).toBe(other.digest)
  })

  test('that was given stays, whatever devices have', async () => {
    await registry.give(folder)
    registry.update([{ name: 'skald', digest: 'ff'.repeat(32) }])
    registry.update([])
    expect(registry.get('skald')).toMatchObject({ digest: skald.digest })
    expect(used).toEqual([skald.digest])
    await expect(registry.give(folder)).rejects.toThrow('Two models are called "skald"')
  })

  test('more for the same model keeps its tokenizer while one is left', async () => {
    await registry.give(folder)
    registry.update([tale()])
    fetches[0]?.resolve(files())
    await registry.find('tale')
    registry.update([])
    expect(used).toContain(skald.digest)
  })
})
