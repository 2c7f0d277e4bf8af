/**
 * What the kernels bm25-load, bm25-unload and bm25-search of every driver must do, as tests that any
 * implementation is run against. Scores are held to the last bit: devices stand in for each other.
 */
import { KvasirError } from '@kvasir/runtime/errors'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ShardStore } from '../bm25/shard-store.js'
import type { DeviceDriver } from '../device-driver.js'
import { SmallCorpus } from './small-corpus.js'

export type Bm25Device = Pick<DeviceDriver, 'describe' | 'runKernel' | 'close'>

const WORDS = ['wing', 'flow', 'heat', 'plate', 'shock', 'über', '東京', 'מים', 'layer', 'mach', '7']

/** 400 documents of 0 to 60 words; what they are depends on nothing but this code. */
function sampleTexts(): string[] {
  let state = 7
  const next = (bound: number) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return (state >>> 8) % bound
  }
  return Array.from({ length: 400 }, () =>
    Array.from({ length: next(61) }, () => WORDS[Math.min(next(11), next(11))]).join(' '),
  )
}

/**
 * Registers the suite for one driver.
 * @param create a device that is ready to run kernels
 */
export function testBm25Conformance(name: string, create: () => Promise<Bm25Device>): void {
  describe(`${name} as a device that searches`, () => {
    const corpus = SmallCorpus.of(sampleTexts())
    const { bytes } = corpus.shard()
    let device: Bm25Device

    beforeAll(async () => {
      device = await create()
    })
    afterAll(() => device.close())

    /** A copy, since a driver may take what it is given. */
    const load = (key: string, shard: Uint8Array) =>
      device.runKernel('bm25-load', { key, shard: shard.slice() })
    const search = (key: string, query: string, k = 10) =>
      device.runKernel('bm25-search', { key, ...corpus.query(query, k) })
    const code = async (running: Promise<unknown>) => {
      const thrown = await running.then(
        () => undefined,
        (error: unknown) => error,
      )
      expect(thrown).toBeInstanceOf(KvasirError)
      return KvasirError.from(thrown).code
    }

    it('declares the kernels and their limits', () => {
      const declared = new Map(device.describe().kernels.map((kernel) => [kernel.name, kernel]))
      for (const kernel of ['bm25-load', 'bm25-unload', 'bm25-search']) {
        expect(declared.get(kernel)).toMatchObject({ version: 1 })
      }
      expect(declared.get('bm25-search')?.limits.k).toBeGreaterThanOrEqual(1_000)
      expect(declared.get('bm25-search')?.limits.terms).toBeGreaterThanOrEqual(1_024)
    })

    it('gives the documents and scores of the reference', async () => {
      expect(await load('whole', bytes)).toBe(bytes.length)
      const reference = new ShardStore()
      reference.load('whole', bytes.slice())
      for (const query of [
        'wing',
        'shock shock heat',
        'über 東京 מים',
        '7 mach layer plate flow',
        'unknown',
        '',
      ]) {
        for (const k of [1, 10, 1_000]) {
          const found = await search('whole', query, k)
          const expected = reference.search({ key: 'whole', ...corpus.query(query, k) })
          expect([...found.documents]).toEqual([...expected.documents])
          expect([...found.scores]).toEqual([...expected.scores])
          expect(Math.min(found.relevancyUs, found.retrievalUs)).toBeGreaterThanOrEqual(0)
        }
      }
    })

    it('gives the same from two shards as from one', async () => {
      await load('whole', bytes)
      await load('first', corpus.shard(0, 150).bytes)
      await load('second', corpus.shard(150, 250).bytes)
      const query = 'flow plate plate mach'
      const whole = await search('whole', query, 20)
      const merged = []
      for (const key of ['first', 'second']) {
        const { documents, scores } = await search(key, query, 20)
        merged.push(...Array.from(documents, (document, rank) => ({ document, score: scores[rank] ?? 0 })))
      }
      merged.sort((a, b) => b.score - a.score || a.document - b.document)
      expect(merged.slice(0, 20)).toEqual(
        Array.from(whole.documents, (document, rank) => ({ document, score: whole.scores[rank] })),
      )
    })

    it('replaces a shard under its key, and lets go of it', async () => {
      await load('changing', bytes)
      await load('changing', corpus.shard(0, 1).bytes)
      expect([...(await search('changing', 'wing flow heat', 1_000)).documents].every((d) => d === 0)).toBe(
        true,
      )
      await device.runKernel('bm25-unload', { key: 'changing' })
      await device.runKernel('bm25-unload', { key: 'changing' })
      expect(await code(search('changing', 'wing'))).toBe('not_found')
    })

    it('refuses damaged bytes and keeps what it had', async () => {
      await load('kept', bytes)
      const before = await search('kept', 'heat shock')
      const damaged = bytes.slice()
      const middle = damaged.length >> 1
      damaged[middle] = (damaged[middle] ?? 0) ^ 64
      expect(await code(load('kept', damaged))).toBe('corrupt')
      expect(await code(load('kept', bytes.slice(0, 100)))).toBe('corrupt')
      const after = await search('kept', 'heat shock')
      expect([...after.scores]).toEqual([...before.scores])
    })

    it('refuses a query that is not one', async () => {
      await load('whole', bytes)
      const query = { key: 'whole', ...corpus.query('wing flow', 5) }
      for (const wrong of [{ k: 0 }, { k: 1_001 }, { meanLength: 0 }, { weights: Float64Array.of(1) }]) {
        expect(await code(device.runKernel('bm25-search', { ...query, ...wrong }))).toBe('invalid_input')
      }
    })

    it('holds a shard without any document or term', async () => {
      await load('empty', corpus.shard(0, 0).bytes)
      expect((await search('empty', 'wing')).documents).toHaveLength(0)
    })
  })
}
