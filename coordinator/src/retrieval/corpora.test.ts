/** Retrieval over fake devices with real gRPC: what is found never depends on who searched it. */
import type { CorpusRef } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { systemClock } from '@kvasir/runtime/clock'
import { deferred } from '@kvasir/runtime/deferred'
import { InternalError, NotFoundError, UnavailableError } from '@kvasir/runtime/errors'
import { createLogger } from '@kvasir/runtime/log'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Corpora, createCorpora } from './corpora.js'
import {
  bestOf,
  FAKE_DOCUMENT_BYTES,
  type FakeDocument,
  FakeOwner,
  FakeSearcher,
  stall,
} from './testing/fake-corpus-devices.js'

const tales: CorpusRef = { name: 'tales', tenantSalt: Buffer.alloc(0) }
const log = createLogger({ service: 'test', terminal: false })
/** 100 documents; each word's counts and ties are spread over all of them. */
const documents: FakeDocument[] = Array.from({ length: 100 }, (_, number) => [
  ...Array.from({ length: number % 7 }, () => 'wolf'),
  ...Array.from({ length: number % 3 }, () => 'fox'),
  `own${number}`,
])
const wolfAndFox = bestOf(documents, ['wolf', 'fox'], 20)

let owner: FakeOwner
let devices: (FakeOwner | FakeSearcher)[]
let corpora: Corpora

async function searcher(deviceId: string, documentsMax: number): Promise<FakeSearcher> {
  const device = await new FakeSearcher(deviceId, owner, documentsMax * FAKE_DOCUMENT_BYTES).start()
  devices.push(device)
  return device
}

function coordinator(): Corpora {
  return createCorpora({ nodes: () => devices.map(({ node }) => node), clock: systemClock, log })
}

/** A device that failed is passed over for some seconds. */
async function until(condition: () => Promise<boolean>): Promise<void> {
  const endMs = performance.now() + 15_000
  while (!(await condition())) {
    if (performance.now() > endMs) throw new Error('waited in vain')
  }
}

async function search(query = 'wolf fox', k = 20, from = corpora) {
  const { documents: found, stages } = await from.search(tales, query, { k })
  const devicesOf = (stage: string) => stages.find((one) => one.stage === stage)?.devices
  return { found: found.map(({ id, score }) => ({ id, score })), relevancyOn: devicesOf('relevancy'), stages }
}

beforeEach(async () => {
  owner = await new FakeOwner().start()
  owner.add(tales, documents)
  devices = [owner]
  corpora = coordinator()
})
afterEach(async () => {
  corpora.close()
  await Promise.all(devices.map((device) => device.kill()))
})

describe('a search', () => {
  test('runs on the device that holds the corpus, and says so', async () => {
    const fpga = await searcher('fpga-0', 100)
    const { found, relevancyOn, stages } = await search()
    expect(found).toEqual(wolfAndFox)
    expect(relevancyOn).toEqual(['fpga-0'])
    expect(fpga.retrieved).toEqual(['0+100'])
    expect(owner.retrieved).toEqual([])
    expect(stages.map(({ stage, measuredMs }) => ({ stage, measuredMs }))).toEqual([
      { stage: 'prepare', measuredMs: 0.01 },
      { stage: 'relevancy', measuredMs: 0.02 },
      { stage: 'retrieval', measuredMs: 0.005 },
    ])
    expect(stages[1]?.alternative?.devices).toEqual(['host-0'])
    expect(stages[1]?.reason).toMatch(
      /^fpga-[01] holds the postings: all stages together are predicted to take [\d.]+ ms, and [\d.]+ ms with host-0, which searches only where no other device can\.$/,
    )
  })

  test('over two shards finds exactly what it finds over one', async () => {
    const [a, b] = [await searcher('fpga-0', 60), await searcher('fpga-1', 60)]
    for (const k of [1, 7, 20, 100, 1_000]) {
      expect((await search('wolf fox', k)).found).toEqual(bestOf(documents, ['wolf', 'fox'], k))
    }
    expect(a.heldRanges).toEqual(['0+50'])
    expect(b.heldRanges).toEqual(['50+50'])
    expect((await search()).relevancyOn).toEqual(['fpga-0', 'fpga-1'])
    // Loaded once, by the first search.
    expect([a.loads, b.loads]).toEqual([1, 1])
  })

  test('runs on the owner where no device retrieves or has room', async () => {
    expect(await search()).toMatchObject({ found: wolfAndFox, relevancyOn: ['host-0'] })
    await searcher('fpga-0', 30)
    expect(await search()).toMatchObject({ found: wolfAndFox, relevancyOn: ['fpga-0', 'host-0'] })
  })

  test('of unknown words, of an empty corpus, of no words finds nothing', async () => {
    await searcher('fpga-0', 100)
    expect((await search('dragon')).found).toEqual([])
    expect((await search('')).found).toEqual([])
    owner.add({ ...tales, name: 'empty' }, [])
    const result = await corpora.search({ ...tales, name: 'empty' }, 'wolf', { k: 3 })
    expect(result).toMatchObject({ corpusDocuments: 0, documents: [] })
  })

  test('of documents larger than one message gets them in several', async () => {
    let calls = 0
    owner.onDocuments = () => {
      calls += 1
      if (calls === 1) throw new InternalError('Received message larger than max.')
    }
    expect((await search('wolf fox', 10)).found).toEqual(bestOf(documents, ['wolf', 'fox'], 10))
    expect(calls).toBe(3)
  })
})

describe('a device that fails', () => {
  test('lost in the middle of a search: the owner searches its shard, and later another device', async () => {
    const [a, b] = [await searcher('fpga-0', 60), await searcher('fpga-1', 60)]
    await search()
    b.onRetrieve = () => b.kill()
    expect(await search()).toMatchObject({ found: wolfAndFox, relevancyOn: ['fpga-0', 'host-0'] })
    b.state = 'lost'
    expect((await search()).found).toEqual(wolfAndFox)
    const c = await searcher('fpga-2', 60)
    expect(await search()).toMatchObject({ found: wolfAndFox, relevancyOn: ['fpga-0', 'fpga-2'] })
    // What fpga-0 had room for stays there.
    expect(a.heldRanges).toEqual(['0+50', '50+10'])
    expect(c.heldRanges).toEqual(['60+40'])
  })

  test('stalled: it is not waited for once it is not heard any more', async () => {
    const fpga = await searcher('fpga-0', 100)
    await search()
    const asked = deferred<void>()
    fpga.onRetrieve = (call) => {
      asked.resolve()
      return stall(call)
    }
    const running = search()
    await asked.promise
    fpga.state = 'lost'
    expect(await running).toMatchObject({ found: wolfAndFox, relevancyOn: ['host-0'] })
  })

  test('stalled but heard: it is given up at its deadline, and passed over for a while', async () => {
    const fpga = await searcher('fpga-0', 100)
    await search()
    fpga.onRetrieve = stall
    const { found, relevancyOn, stages } = await search()
    expect({ found, relevancyOn }).toEqual({ found: wolfAndFox, relevancyOn: ['host-0'] })
    expect(stages[1]?.reason).toContain('fpga-0 did not answer; host-0 did')
    const before = fpga.retrieved.length
    expect((await search()).found).toEqual(wolfAndFox)
    expect(fpga.retrieved.length).toBe(before)
  })

  test('back after a silence holds what it held, and takes part again', async () => {
    const [a, b] = [await searcher('fpga-0', 60), await searcher('fpga-1', 60)]
    await search()
    a.onRetrieve = () => {
      throw new UnavailableError('It hangs.')
    }
    await search()
    a.state = 'lost'
    expect((await search()).found).toEqual(wolfAndFox)
    expect(b.heldRanges).toEqual(['0+10', '50+50'])
    a.onRetrieve = () => {}
    a.state = 'ready'
    await until(async () => (await search()).relevancyOn?.toSorted().join() === 'fpga-0,fpga-1')
    expect(a.heldRanges).toEqual(['10+40'])
  })

  test('back after its range went to another lets go of it', async () => {
    // Words shared by two shards make one long range hold more than two short ones.
    owner.terms = 500n
    const [a, b] = [await searcher('fpga-0', 70), await searcher('fpga-1', 70)]
    await search()
    expect([a.heldRanges, b.heldRanges]).toEqual([['0+50'], ['50+50']])
    a.state = 'lost'
    expect((await search()).found).toEqual(wolfAndFox)
    expect(b.heldRanges).toEqual(['0+63'])
    a.state = 'ready'
    expect(await search()).toMatchObject({ found: wolfAndFox, relevancyOn: ['fpga-1', 'fpga-0'] })
    expect(a.heldRanges).toEqual(['63+37'])
  })

  test('that lost its shards says so, and loads them again', async () => {
    const fpga = await searcher('fpga-0', 100)
    await search()
    fpga.held.clear()
    expect((await search()).found).toEqual(wolfAndFox)
    expect(await search()).toMatchObject({ found: wolfAndFox, relevancyOn: ['fpga-0'] })
    expect(fpga.loads).toBe(2)
  })

  test('restarted: its next life loads its shards again', async () => {
    const fpga = await searcher('fpga-0', 100)
    await search()
    await fpga.restart()
    expect(await search()).toMatchObject({ found: wolfAndFox, relevancyOn: ['fpga-0'] })
    expect(fpga.loads).toBe(2)
  })

  test('wrong: an answer with documents of another shard is not believed', async () => {
    const [a] = [await searcher('fpga-0', 60), await searcher('fpga-1', 60)]
    await search()
    Object.defineProperty(a, 'retrieve', {
      value: () => ({ documents: [{ document: 99, score: 1e9 }], relevancyUs: 0n, retrievalUs: 0n }),
    })
    expect((await search()).found).toEqual(wolfAndFox)
  })

  test('with other shards in its memory than this coordinator knows of makes room', async () => {
    const other = { ...tales, name: 'other' }
    owner.add(other, documents.slice(0, 60))
    const fpga = await searcher('fpga-0', 100)
    await corpora.search(other, 'wolf', { k: 3 })
    const next = coordinator()
    expect(fpga.heldRanges).toEqual(['0+60'])
    expect(await search('wolf fox', 20, next)).toMatchObject({ found: wolfAndFox, relevancyOn: ['fpga-0'] })
    expect(fpga.heldRanges).toEqual(['0+100'])
    next.close()
  })

  test('without the room it advertised gets less', async () => {
    const fpga = await searcher('fpga-0', 100)
    Object.assign(fpga, { bytesMax: 85 * FAKE_DOCUMENT_BYTES })
    expect(await search()).toMatchObject({ found: wolfAndFox, relevancyOn: ['host-0'] })
    expect(await search()).toMatchObject({ found: wolfAndFox, relevancyOn: ['fpga-0', 'host-0'] })
    expect(fpga.heldRanges).toEqual(['0+80'])
  })
})

describe('a shard that takes long to load', () => {
  test('is searched by the owner meanwhile, and loaded once', async () => {
    const fpga = await searcher('fpga-0', 100)
    const loaded = deferred<void>()
    fpga.onLoad = () => loaded.promise
    expect(await search()).toMatchObject({ found: wolfAndFox, relevancyOn: ['host-0'] })
    const running = search()
    loaded.resolve()
    expect(await running).toMatchObject({ found: wolfAndFox, relevancyOn: ['fpga-0'] })
    expect(fpga.loads).toBe(1)
  })
})

describe('a corpus that changes', () => {
  test('is planned anew, and devices let go of the older version', async () => {
    const fpga = await searcher('fpga-0', 300)
    await search()
    owner.add(tales, documents)
    const all = [...documents, ...documents]
    expect((await search()).found).toEqual(bestOf(all, ['wolf', 'fox'], 20))
    expect(fpga.heldRanges).toEqual(['0+200'])
  })

  test('in the middle of a search: the search begins again with the newer version', async () => {
    await searcher('fpga-0', 300)
    owner.keepsVersions = false
    let changes = 0
    owner.onDocuments = () => {
      if (changes === 2) return
      changes += 1
      owner.add(tales, [['wolf']])
    }
    const all = [...documents, ['wolf'], ['wolf']]
    expect((await search()).found).toEqual(bestOf(all, ['wolf', 'fox'], 20))
  })

  test('with every attempt is an error, not an endless search', async () => {
    owner.keepsVersions = false
    owner.onDocuments = () => owner.add(tales, [['wolf']])
    await expect(search()).rejects.toThrow(/changes faster than it can be searched/)
  })

  test('is deleted by somebody else: it is not found', async () => {
    await search()
    owner.corpora.clear()
    await expect(search()).rejects.toThrow(NotFoundError)
  })
})

describe('corpora', () => {
  const salted = (salt: string): CorpusRef => ({ name: 'tales', tenantSalt: Buffer.from(salt) })
  async function* lines(...chunks: string[]): AsyncGenerator<Buffer> {
    for (const chunk of chunks) yield Buffer.from(chunk)
  }

  test('are made, filled, listed and deleted', async () => {
    const fpga = await searcher('fpga-0', 100)
    const fables = { ...tales, name: 'fables' }
    expect(await corpora.create(fables)).toMatchObject({ name: 'fables', documents: 0, owner: 'host-0' })
    const { signal } = new AbortController()
    const report = await corpora.ingest(fables, lines('the wolf\nbro', 'ken\nthe fox\n'), signal)
    expect(report).toMatchObject({
      added: 2,
      rejected: 1,
      problems: [{ line: 2, message: 'It is broken.' }],
      corpus: { documents: 2 },
    })
    expect((await corpora.list(tales.tenantSalt)).map(({ name }) => name)).toEqual(['fables', 'tales'])
    expect((await corpora.search(fables, 'fox', { k: 5 })).documents).toMatchObject([
      { id: 'd1', text: 'the fox' },
    ])
    expect((await corpora.get(fables)).shards).toEqual([{ device: 'fpga-0', firstDocument: 0, documents: 2 }])
    await corpora.delete(fables)
    expect(fpga.heldRanges).toEqual([])
    await expect(corpora.get(fables)).rejects.toThrow(NotFoundError)
  })

  test('belong to their tenant', async () => {
    await corpora.create(salted('a'))
    await corpora.create(salted('b'))
    await expect(corpora.create(salted('a'))).rejects.toThrow(/There is a corpus "tales" already/)
    expect(await corpora.list(Buffer.from('a'))).toHaveLength(1)
    expect(await corpora.list(Buffer.from('c'))).toEqual([])
    await corpora.delete(salted('a'))
    expect(await corpora.list(Buffer.from('b'))).toHaveLength(1)
    await expect(corpora.search(salted('a'), 'wolf', { k: 1 })).rejects.toThrow(NotFoundError)
  })

  test('have names that can be typed', async () => {
    for (const name of ['', 'a b', 'a/b', '.hidden', 'ä', 'x'.repeat(65)]) {
      await expect(corpora.create({ ...tales, name })).rejects.toMatchObject({ code: 'invalid_input' })
    }
  })

  test('whose owner does not answer are named, with their owner', async () => {
    await searcher('fpga-0', 100)
    await search()
    await owner.kill()
    const missing = /The corpus "tales" is kept by host-0, which does not answer/
    await expect(search()).rejects.toThrow(missing)
    owner.state = 'lost'
    await expect(search()).rejects.toThrow(missing)
    expect(await corpora.list(tales.tenantSalt)).toMatchObject([{ name: 'tales', available: false }])
    await expect(corpora.search({ ...tales, name: 'other' }, 'wolf', { k: 1 })).rejects.toThrow(
      /No corpus "other" is known, but host-0, which may keep it, does not answer/,
    )
    devices = []
    await expect(coordinator().get(tales)).rejects.toThrow(/No host agent/)
  })

  test('are known to a coordinator that has just started', async () => {
    const fpga = await searcher('fpga-0', 100)
    await search()
    const next = coordinator()
    expect(await next.list(tales.tenantSalt)).toHaveLength(1)
    expect(await search('wolf fox', 20, next)).toMatchObject({ found: wolfAndFox, relevancyOn: ['fpga-0'] })
    expect(fpga.heldRanges).toEqual(['0+100'])
    next.close()
  })
})
