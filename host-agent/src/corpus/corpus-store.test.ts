/** Corpora on disk and in memory: what goes in, what is refused, what a restart and a crash leave. */
import {
  appendFileSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { ShardStore } from '@kvasir/engine/bm25/shard-store'
import { deferred } from '@kvasir/runtime/deferred'
import { CancelledError } from '@kvasir/runtime/errors'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { ingest, jsonl, NEVER, numbered, refOf, StoreHome, search } from '../testing/corpus-stores.js'
import type { CorpusStore } from './corpus-store.js'

let home: StoreHome
let store: CorpusStore
const ref = refOf('papers')

beforeEach(async () => {
  home = new StoreHome()
  store = home.store()
  await store.create(ref, NEVER)
})
afterEach(() => home.close())

const fails = (code: string, message: RegExp | string = '') =>
  expect.objectContaining({
    code,
    message: typeof message === 'string' ? expect.stringContaining(message) : expect.stringMatching(message),
  })

describe('documents', () => {
  test('are found by the words of their titles and texts', async () => {
    const { added, corpus } = await ingest(store, ref, [
      jsonl([
        { _id: 'a', title: 'Wing flutter', text: 'in a slipstream' },
        { _id: 'b', text: 'Heat of a plate' },
        { _id: 'c', title: '', text: '' },
      ]),
    ])
    expect(added).toBe(3n)
    expect(corpus).toMatchObject({ documents: 3n, terms: 8n, textBytes: 42n })
    expect((await search(store, ref, 'WING heat')).ids).toEqual(['b', 'a'])
    expect((await search(store, ref, 'the of a')).ids).toEqual(['b', 'a'])
    expect((await search(store, ref, 'propeller ?!')).ids).toEqual([])
  })

  test('of several uploads are one corpus, whose version grows', async () => {
    const first = await ingest(store, ref, [numbered(['flow', 'heat'])])
    const second = await ingest(store, ref, [numbered(['flow heat', 'flow'], 2)])
    expect(second.corpus.version > first.corpus.version).toBe(true)
    expect(second.corpus.documents).toBe(4n)
    const together = refOf('together')
    await store.create(together, NEVER)
    await ingest(store, together, [numbered(['flow', 'heat', 'flow heat', 'flow'])])
    for (const query of ['flow', 'heat flow', 'heat']) {
      expect(await search(store, ref, query)).toEqual(await search(store, together, query))
    }
  })

  test('are given as they came, whatever their letters', async () => {
    const texts = ['héllo\nworld', '東京 🙂', 'שלום "quoted" \\ \u0000', '\u2028', 'e\u0301']
    await ingest(store, ref, [numbered(texts)])
    const corpus = await store.corpus(ref, NEVER)
    const { version } = corpus.info
    const found = await corpus.documents(version, [4, 0, 1, 2, 3], NEVER)
    expect(found.map(({ text }) => text)).toEqual([texts[4], texts[0], texts[1], texts[2], texts[3]])
    await expect(corpus.documents(version, [5], NEVER)).rejects.toEqual(fails('not_found', 'larger number'))
    await expect(corpus.documents(1n, [0], NEVER)).rejects.toEqual(fails('not_found', 'version'))
  })

  test('in any cuts of the stream are the same', async () => {
    const bytes = numbered(['flow of heat', 'über 東京', '🙂 wing', 'heat'])
    let made = 0
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat({ max: bytes.length }), { maxLength: 8 }), async (cuts) => {
        const other = refOf(`cut-${made++}`)
        await store.create(other, NEVER)
        const ends = [...cuts, bytes.length].sort((a, b) => a - b)
        const parts = ends.map((end, index) => bytes.subarray(ends[index - 1] ?? 0, end))
        expect((await ingest(store, other, parts)).added).toBe(4n)
        expect((await search(store, other, 'heat über 東京')).ids).toEqual(['d1', 'd3', 'd0'])
      }),
      { numRuns: 20 },
    )
  })
})

describe('lines that are wrong', () => {
  test('are told with their numbers, and the rest is kept', async () => {
    await ingest(store, ref, [jsonl([{ _id: 'old', text: 'old' }])])
    const lines = [
      '\ufeff{"_id": "a", "text": "first"}',
      '',
      '{"_id": "b", "text": ',
      '  \r',
      '{"_id": "c", "title": 7, "text": "x"}',
      '{"_id": "d"}',
      '{"text": "no id"}',
      '{"_id": 9, "text": "x"}',
      '{"_id": "a", "text": "again"}',
      '{"_id": "old", "text": "again"}',
      '[1]',
      'null',
      '{"_id": "", "text": ""}',
      '{"_id": "e", "title": null, "text": "kept", "url": {"any": 1}}\r',
      `{"_id": "f", "text": "${'x'.repeat(1 << 20)}"}`,
      `{"_id": "${'y'.repeat(600)}", "text": ""}`,
      '{"_id": "last", "text": "no line feed"}',
    ]
    const bytes = Buffer.concat([
      Buffer.from(`${lines.slice(0, 2).join('\n')}\n`),
      Buffer.from([0x7b, 0xff, 0xfe, 0x0a]),
      Buffer.from(lines.slice(2).join('\n')),
    ])
    const { added, rejected, problems } = await ingest(store, ref, [bytes])
    expect(added).toBe(3n)
    expect(rejected).toBe(BigInt(problems.length))
    expect(problems.map(({ line, message }) => [Number(line), message])).toEqual([
      [3, expect.stringContaining('not UTF-8')],
      [4, expect.stringContaining('not JSON')],
      [6, expect.stringContaining('"title" is not a text')],
      [7, expect.stringContaining('no "text"')],
      [8, expect.stringContaining('no "_id"')],
      [9, expect.stringContaining('"_id" is not a text')],
      [10, 'The id "a" is in this upload already; the first document with it counts.'],
      [11, 'The id "old" is in the corpus already; its document is kept as it is.'],
      [12, expect.stringContaining('no object')],
      [13, expect.stringContaining('no object')],
      [14, expect.stringContaining('no "_id"')],
      [16, expect.stringContaining('longer than 1048576 bytes')],
      [17, expect.stringContaining('longer than 512 characters')],
    ])
    expect((await search(store, ref, 'first kept feed again')).ids.sort()).toEqual(['a', 'e', 'last'])
  })

  test('beyond a hundred are only counted', async () => {
    const { rejected, problems, added, corpus } = await ingest(store, ref, [
      Buffer.from('nonsense\n'.repeat(250)),
    ])
    expect([Number(rejected), problems.length, Number(added)]).toEqual([250, 100, 0])
    expect(corpus.version).toBe(0n)
  })

  test('of 100 MB are passed over without being held', async () => {
    const part = Buffer.alloc(1 << 20, 'x')
    function* parts() {
      yield Buffer.from('{"_id": "big", "text": "')
      for (let i = 0; i < 100; i += 1) yield part
      yield Buffer.from('"}\n{"_id": "small", "text": "kept"}\n')
    }
    const before = process.memoryUsage().arrayBuffers
    const { added, problems } = await ingest(store, ref, parts())
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(30 << 20)
    expect([Number(added), problems.map(({ line }) => Number(line))]).toEqual([1, [1]])
  })

  test('are well formed when told, and texts with lone surrogates are kept', async () => {
    const { problems, added } = await ingest(store, ref, [
      Buffer.from('{"_id": "\\ud800", "text": "\\udfff x"}\n{"_id": "\\ud801", "text": ""}\n'),
    ])
    expect(added).toBe(1n)
    expect(problems[0]?.message).toContain('already')
    expect((await search(store, ref, 'x')).ids).toEqual(['\ufffd'])
  })
})

describe('a corpus', () => {
  test('has a name that a folder can have, once', async () => {
    for (const name of ['', '.', '..', '../x', 'a/b', '-x', '.x', 'x'.repeat(65), 'ü', 'a b']) {
      await expect(store.create(refOf(name), NEVER)).rejects.toEqual(
        fails('invalid_input', 'name of a corpus'),
      )
    }
    await expect(store.create(ref, NEVER)).rejects.toEqual(fails('already_exists', 'papers already'))
    const outcomes = await Promise.allSettled([
      store.create(refOf('x'), NEVER),
      store.create(refOf('x'), NEVER),
    ])
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected'])
    await expect(store.corpus(refOf('other'), NEVER)).rejects.toEqual(fails('not_found', 'no corpus other'))
  })

  test('of a tenant is another than the same name of another', async () => {
    const mine = refOf('papers', 'salt-1')
    const theirs = refOf('papers', 'salt-2')
    await store.create(mine, NEVER)
    await ingest(store, mine, [numbered(['secret'])])
    await expect(store.corpus(theirs, NEVER)).rejects.toEqual(fails('not_found'))
    await store.create(theirs, NEVER)
    expect((await search(store, theirs, 'secret')).ids).toEqual([])
    expect((await search(store, ref, 'secret')).ids).toEqual([])
    expect((await store.list(NEVER)).map(({ tenantSalt }) => tenantSalt.toString()).sort()).toEqual([
      ...['', 'salt-1', 'salt-2'],
    ])
  })

  test('that is empty has version 0, and any query finds nothing', async () => {
    const corpus = await store.corpus(ref, NEVER)
    expect(await corpus.prepare('anything at all', NEVER)).toEqual({
      version: 0n,
      terms: [],
      meanLength: 0,
      words: 3,
      documents: 0n,
      postingsBytes: 0n,
    })
  })

  test('that is deleted is gone from the disk, and its versions never come again', async () => {
    const { corpus } = await ingest(store, ref, [numbered(['a'])])
    await store.delete(ref, NEVER)
    await expect(store.delete(ref, NEVER)).rejects.toEqual(fails('not_found'))
    expect(readdirSync(join(home.folder, 'shared'))).toEqual([])
    expect(store.usedBytes).toBe(0)
    await store.create(ref, NEVER)
    const again = await ingest(store, ref, [numbered(['b'])])
    expect(again.corpus.version > corpus.version).toBe(true)
  })

  test('that is deleted during an upload ends the upload', async () => {
    const held = deferred<void>()
    async function* parts() {
      yield numbered(['a'])
      await held.promise
    }
    const upload = ingest(store, ref, parts())
    const failed = expect(upload).rejects.toEqual(fails('not_found', 'was deleted'))
    await store.delete(ref, NEVER)
    await failed
    held.resolve()
    expect(store.usedBytes).toBe(0)
  })

  test('keeps to the budget, and an upload that does not fit leaves nothing', async () => {
    const small = new StoreHome()
    const tight = small.store(4_000)
    await tight.create(ref, NEVER)
    await ingest(tight, ref, [numbered(['one', 'two'])])
    const used = tight.usedBytes
    const many = numbered(
      Array.from({ length: 200 }, (_, i) => `word${i}`),
      2,
    )
    await expect(ingest(tight, ref, [many])).rejects.toEqual(fails('overloaded', 'corpusBytes'))
    expect(tight.usedBytes).toBe(used)
    expect((await search(tight, ref, 'one word5')).ids).toEqual(['d0'])
    expect((await ingest(tight, ref, [numbered(['word5'], 2)])).added).toBe(1n)
    expect((await search(tight, ref, 'word5')).ids).toEqual(['d2'])
    await small.close()
  })

  test('on a full disk takes nothing, says so, and goes on when there is room', async () => {
    await ingest(store, ref, [numbered(['flow'])])
    const empty = refOf('more')
    await store.create(empty, NEVER)
    const documents = join(home.folder, 'shared', 'more', 'documents.jsonl')
    rmSync(documents, { force: true })
    symlinkSync('/dev/full', documents)
    const usedBytes = store.usedBytes
    await expect(ingest(store, empty, [numbered(['heat'])])).rejects.toEqual(
      fails('overloaded', 'disk that holds the corpora is full'),
    )
    expect(store.usedBytes).toBe(usedBytes)
    expect((await search(store, ref, 'flow')).ids).toEqual(['d0'])
    rmSync(documents)
    expect((await ingest(store, empty, [numbered(['heat'])])).added).toBe(1n)
    expect((await search(store, empty, 'heat')).ids).toEqual(['d0'])
  })

  test('takes one upload at a time, and none that is cut off', async () => {
    const held = deferred<void>()
    async function* parts() {
      yield numbered(['cut off'])
      await held.promise
      throw new CancelledError('The caller is gone.')
    }
    const first = ingest(store, ref, parts())
    const second = ingest(store, ref, [numbered(['whole'])])
    held.resolve()
    await expect(first).rejects.toEqual(fails('cancelled'))
    expect((await second).added).toBe(1n)
    expect((await search(store, ref, 'cut whole')).ids).toEqual(['d0'])
  })

  test('of an earlier version stays readable during uploads', async () => {
    const { corpus: before } = await ingest(store, ref, [numbered(['a', 'b'])])
    await ingest(store, ref, [numbered(['c'], 2)])
    const corpus = await store.corpus(ref, NEVER)
    expect((await corpus.documents(before.version, [0, 1], NEVER)).map(({ id }) => id)).toEqual(['d0', 'd1'])
    await expect(corpus.documents(before.version, [2], NEVER)).rejects.toEqual(fails('not_found'))
  })
})

describe('shards', () => {
  test('of any cut give what the owner gives, to the last bit', async () => {
    const words = ['flow', 'heat', 'wing', 'plate', 'shock', 'mach']
    const text = (i: number) =>
      Array.from({ length: (i * 7) % 23 }, (_, j) => words[(i * j + j) % 6]).join(' ')
    for (let part = 0; part < 10; part += 1) {
      await ingest(store, ref, [
        numbered(
          Array.from({ length: 30 }, (_, i) => text(part * 30 + i)),
          part * 30,
        ),
      ])
    }
    const corpus = await store.corpus(ref, NEVER)
    const { version, terms, meanLength } = await corpus.prepare('heat of a wing, shock', NEVER)
    const query = {
      terms: Uint32Array.from(terms, ({ term }) => term),
      weights: Float64Array.from(terms, ({ weight }) => weight),
      meanLength,
      k: 25,
    }
    for (const [firstDocument, documentCount] of [
      [0, 300],
      [0, 130],
      [130, 170],
      [299, 1],
    ] as const) {
      const range = { firstDocument, documentCount }
      const device = new ShardStore()
      device.load('s', (await corpus.shard(version, range, NEVER)).bytes.slice())
      const there = device.search({ key: 's', ...query })
      const here = await corpus.retrieve(version, range, query, NEVER)
      expect([...here.documents]).toEqual([...there.documents])
      expect([...here.scores]).toEqual([...there.scores])
    }
  })
})

describe('a restart', () => {
  const folder = () => join(home.folder, 'shared', 'papers')
  const fill = async () => {
    await ingest(store, ref, [numbered(['flow', 'heat flow', 'wing'])])
    return search(store, ref, 'flow wing')
  }

  test('keeps corpora, versions, ids and answers', async () => {
    const before = await fill()
    const [info] = await store.list(NEVER)
    const again = home.store()
    expect(await search(again, ref, 'flow wing')).toEqual(before)
    expect(await again.list(NEVER)).toEqual([info])
    expect(again.usedBytes).toBe(store.usedBytes)
    const { added, rejected } = await ingest(again, ref, [numbered(['twice', 'new'], 2)])
    expect([added, rejected]).toEqual([1n, 1n])
  })

  test('after a crash in the middle of an upload has the corpus before it', async () => {
    const before = await fill()
    appendFileSync(join(folder(), 'documents.jsonl'), '{"_id":"half","title":"","te')
    writeFileSync(join(folder(), 'corpus.json.next'), '{"format":1,"na')
    const again = home.store()
    expect(await search(again, ref, 'flow wing')).toEqual(before)
    expect(readFileSync(join(folder(), 'documents.jsonl'), 'utf8')).not.toContain('half')
    expect((await ingest(again, ref, [numbered(['after'], 3)])).added).toBe(1n)
    const third = home.store()
    expect((await search(third, ref, 'after')).ids).toEqual(['d3'])
  })

  test('reads the small corpora first, so that they wait for no large one', async () => {
    const names = ['a-large', 'b-small', 'c-empty']
    for (const name of names) await store.create(refOf(name), NEVER)
    await ingest(store, refOf('a-large'), [
      numbered(Array.from({ length: 5_000 }, () => 'heat flow '.repeat(20))),
    ])
    await ingest(store, refOf('b-small'), [numbered(['heat'])])
    const again = home.store()
    const order: string[] = []
    const opened = names.map(async (name) => {
      await (await again.corpus(refOf(name), NEVER)).prepare('heat', NEVER)
      order.push(name)
    })
    await Promise.all(opened)
    expect(order).toEqual(['c-empty', 'b-small', 'a-large'])
  })

  test('with documents that are damaged says so, and the corpus can be deleted', async () => {
    await fill()
    truncateSync(join(folder(), 'documents.jsonl'), 50)
    const again = home.store()
    await expect(search(again, ref, 'flow')).rejects.toEqual(
      fails('corrupt', 'delete it and upload it again'),
    )
    await again.delete(ref, NEVER)
    await again.create(ref, NEVER)
    expect((await ingest(again, ref, [numbered(['a'])])).added).toBe(1n)
  })

  test('with a record that is damaged says so; other corpora are served', async () => {
    await store.create(refOf('other'), NEVER)
    await fill()
    writeFileSync(join(folder(), 'corpus.json'), '{}')
    const again = home.store()
    await expect(search(again, ref, 'flow')).rejects.toEqual(fails('corrupt', 'corpus.json'))
    expect((await search(again, refOf('other'), 'flow')).ids).toEqual([])
    await again.delete(ref, NEVER)
  })

  test('with words of another analyzer gives the corpus another version', async () => {
    await fill()
    const file = join(folder(), 'corpus.json')
    writeFileSync(file, readFileSync(file, 'utf8').replace(/"analyzer":"[^"]*"/, '"analyzer":"words-0"'))
    const [info] = await store.list(NEVER)
    const again = home.store()
    const corpus = await again.corpus(ref, NEVER)
    expect((await corpus.prepare('flow', NEVER)).version > (info?.version ?? 0n)).toBe(true)
  })

  test('after a deletion that was cut off removes the rest, and nothing that is not a corpus', async () => {
    await fill()
    rmSync(join(folder(), 'corpus.json'))
    writeFileSync(join(home.folder, 'notes.txt'), 'mine')
    const again = home.store()
    expect(await again.list(NEVER)).toEqual([])
    expect(readdirSync(join(home.folder, 'shared'))).toEqual([])
    await again.create(ref, NEVER)
    expect(readdirSync(home.folder).sort()).toEqual(['notes.txt', 'shared'])
  })
})
