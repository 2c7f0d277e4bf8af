/**
 * What the kernels bm25-load, bm25-unload and bm25-search of every driver must do. Scores are held to the last
 * bit: devices stand in for each other.
 */
import { ShardStore } from '../bm25/shard-store.js'
import type { DeviceDriver } from '../device-driver.js'
import { SmallCorpus } from '../testing/small-corpus.js'
import type { ConformanceCase, ConformanceSuite } from './conformance-case.js'
import { equal, failsWith, holds, same } from './expectations.js'

export type Bm25Device = Pick<DeviceDriver, 'describe' | 'runKernel' | 'close'>

export const BM25_KERNELS = ['bm25-load', 'bm25-unload', 'bm25-search'] as const

const WORDS = ['wing', 'flow', 'heat', 'plate', 'shock', 'über', '東京', 'מים', 'layer', 'mach', '7']
const QUERIES = ['wing', 'shock shock heat', 'über 東京 מים', '7 mach layer plate flow', 'unknown', '']

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

export interface Bm25Context {
  readonly device: Bm25Device
  readonly corpus: SmallCorpus
  /** The shard of all documents. */
  readonly bytes: Uint8Array
}

/** A copy, since a driver may take what it is given. */
function load({ device }: Bm25Context, key: string, shard: Uint8Array): Promise<number> {
  return device.runKernel('bm25-load', { key, shard: shard.slice() })
}

function search({ device, corpus }: Bm25Context, key: string, query: string, k = 10) {
  return device.runKernel('bm25-search', { key, ...corpus.query(query, k) })
}

const cases: readonly ConformanceCase<Bm25Context>[] = [
  {
    name: 'declares limits that shards and queries of a usual size keep to',
    async run({ device }) {
      const declared = new Map(device.describe().kernels.map((kernel) => [kernel.name, kernel]))
      const { k = 0, terms = 0 } = declared.get('bm25-search')?.limits ?? {}
      holds(k >= 1_000, `The limit k of bm25-search should be at least 1000, but is ${k}.`)
      holds(terms >= 1_024, `The limit terms of bm25-search should be at least 1024, but is ${terms}.`)
      const { shardBytes = 0 } = declared.get('bm25-load')?.limits ?? {}
      holds(
        shardBytes >= 1 << 20,
        `The limit shardBytes of bm25-load should be at least 1 MiB, but is ${shardBytes}.`,
      )
    },
  },
  {
    name: 'gives the documents and scores of the reference',
    async run(context) {
      const { bytes, corpus } = context
      equal('Bytes that the shard takes', await load(context, 'whole', bytes), bytes.length)
      const reference = new ShardStore()
      reference.load('whole', bytes.slice())
      for (const query of QUERIES) {
        for (const k of [1, 10, 1_000]) {
          const found = await search(context, 'whole', query, k)
          const expected = reference.search({ key: 'whole', ...corpus.query(query, k) })
          same(`Documents for "${query}"`, found.documents, expected.documents)
          same(`Scores for "${query}"`, found.scores, expected.scores)
          holds(Math.min(found.relevancyUs, found.retrievalUs) >= 0, 'Times should not be below 0.')
        }
      }
    },
  },
  {
    name: 'gives the same from two shards as from one',
    async run(context) {
      const { bytes, corpus } = context
      await load(context, 'whole', bytes)
      await load(context, 'first', corpus.shard(0, 150).bytes)
      await load(context, 'second', corpus.shard(150, 250).bytes)
      const query = 'flow plate plate mach'
      const whole = await search(context, 'whole', query, 20)
      const merged = []
      for (const key of ['first', 'second']) {
        const { documents, scores } = await search(context, key, query, 20)
        merged.push(...Array.from(documents, (document, rank) => ({ document, score: scores[rank] ?? 0 })))
      }
      merged.sort((a, b) => b.score - a.score || a.document - b.document)
      const best = merged.slice(0, 20)
      same(
        'Documents',
        Uint32Array.from(best, ({ document }) => document),
        whole.documents,
      )
      same(
        'Scores',
        Float64Array.from(best, ({ score }) => score),
        whole.scores,
      )
    },
  },
  {
    name: 'replaces a shard under its key, and lets go of it',
    async run(context) {
      const { device, bytes, corpus } = context
      await load(context, 'changing', bytes)
      await load(context, 'changing', corpus.shard(0, 1).bytes)
      const { documents } = await search(context, 'changing', 'wing flow heat', 1_000)
      holds(
        documents.every((document) => document === 0),
        'Only document 0 is in the shard that replaced the first.',
      )
      await device.runKernel('bm25-unload', { key: 'changing' })
      await device.runKernel('bm25-unload', { key: 'changing' })
      await failsWith('A search of a shard that is gone', search(context, 'changing', 'wing'), 'not_found')
    },
  },
  {
    name: 'refuses damaged bytes and keeps what it had',
    async run(context) {
      const { bytes } = context
      await load(context, 'kept', bytes)
      const before = await search(context, 'kept', 'heat shock')
      const damaged = bytes.slice()
      const middle = damaged.length >> 1
      damaged[middle] = (damaged[middle] ?? 0) ^ 64
      await failsWith('Loading damaged bytes', load(context, 'kept', damaged), 'corrupt')
      await failsWith('Loading too few bytes', load(context, 'kept', bytes.slice(0, 100)), 'corrupt')
      const after = await search(context, 'kept', 'heat shock')
      same('Scores before and after', after.scores, before.scores)
    },
  },
  {
    name: 'refuses a query that is not one',
    async run(context) {
      const { device, bytes, corpus } = context
      await load(context, 'whole', bytes)
      const query = { key: 'whole', ...corpus.query('wing flow', 5) }
      for (const wrong of [{ k: 0 }, { k: 1_001 }, { meanLength: 0 }, { weights: Float64Array.of(1) }]) {
        const call = device.runKernel('bm25-search', { ...query, ...wrong })
        await failsWith(
          `A search with ${Object.keys(wrong)[0]} ${Object.values(wrong)[0]}`,
          call,
          'invalid_input',
        )
      }
    },
  },
  {
    name: 'holds a shard without any document or term',
    async run(context) {
      await load(context, 'empty', context.corpus.shard(0, 0).bytes)
      equal('The number of documents found', (await search(context, 'empty', 'wing')).documents.length, 0)
    },
  },
]

export const bm25Suite: ConformanceSuite<Bm25Context> = {
  name: 'search',
  open: async ({ device }) => bm25Context(device),
  async close({ device }) {
    for (const key of ['whole', 'first', 'second', 'changing', 'kept', 'empty']) {
      await device.runKernel('bm25-unload', { key })
    }
  },
  cases: cases.map((one) => ({ ...one, needs: BM25_KERNELS })),
}

export function bm25Context(device: Bm25Device): Bm25Context {
  const corpus = SmallCorpus.of(sampleTexts())
  return { device, corpus, bytes: corpus.shard().bytes }
}
