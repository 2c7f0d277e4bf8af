/** BM25 over shards: equal to the textbook, however documents are cut into shards. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { bm25Context, bm25Suite } from '../conformance/bm25-suite.js'
import { ShardStoreDevice } from '../testing/shard-store-device.js'
import { finished, SmallCorpus } from '../testing/small-corpus.js'
import { countWords } from './analyzer.js'
import { checkQuery, inverseDocumentFrequency } from './bm25.js'
import { mergeShards } from './shard-merge.js'
import { ShardStore } from './shard-store.js'

/** The textbook, from the words themselves. */
function textbook(documents: readonly string[], query: string): { document: number; score: number }[] {
  const k1 = 1.2
  const b = 0.75
  const split = (text: string) => text.split(' ').filter((word) => word !== '')
  const words = documents.map(split)
  const n = documents.length
  const mean = words.reduce((sum, { length }) => sum + length, 0) / n
  const scored = words.flatMap((document, number) => {
    let score = 0
    for (const term of split(query)) {
      const tf = document.filter((word) => word === term).length
      const df = words.filter((other) => other.includes(term)).length
      const idf = Math.log(1 + (n - df + 0.5) / (df + 0.5))
      score += (idf * tf * (k1 + 1)) / (tf + k1 * (1 - b + (b * document.length) / mean))
    }
    return score > 0 ? [{ document: number, score }] : []
  })
  return scored.sort((x, y) => y.score - x.score || x.document - y.document)
}

const word = fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f', 'gamma', 'delta', '42')
const text = fc.array(word, { maxLength: 30 }).map((words) => words.join(' '))
const corpus = fc.array(text, { minLength: 1, maxLength: 40 })

describe('a search', () => {
  test('gives the scores and the order of the textbook', () => {
    fc.assert(
      fc.property(corpus, text, (documents, query) => {
        const expected = textbook(documents, query)
        const found = SmallCorpus.of(documents).search(query, 1_000)
        expect(found.documents.length).toBe(expected.length)
        const scoreOf = new Map(expected.map(({ document, score }) => [document, score]))
        found.documents.forEach((document, rank) => {
          expect(found.scores[rank]).toBeCloseTo(scoreOf.get(document) ?? Number.NaN, 10)
          expect(found.scores[rank]).toBeCloseTo(expected[rank]?.score ?? Number.NaN, 10)
        })
      }),
    )
  })

  test('gives the same documents and bit-equal scores however the corpus is cut', () => {
    const cuts = fc.array(fc.nat(), { maxLength: 6 })
    fc.assert(
      fc.property(corpus, text, cuts, fc.integer({ min: 1, max: 50 }), (documents, query, at, k) => {
        const small = SmallCorpus.of(documents)
        const whole = small.search(query, k)
        const ends = [...new Set(at.map((cut) => cut % documents.length))].sort((x, y) => x - y)
        const parts = [0, ...ends].map((begin, index) => [begin, ends[index] ?? documents.length] as const)
        const found = parts.flatMap(([begin, end]) => {
          const part = small.search(query, k, begin, end - begin)
          return Array.from(part.documents, (document, rank) => ({ document, score: part.scores[rank] ?? 0 }))
        })
        found.sort((x, y) => y.score - x.score || x.document - y.document)
        expect(found.slice(0, k)).toEqual(
          Array.from(whole.documents, (document, rank) => ({ document, score: whole.scores[rank] })),
        )
      }),
    )
  })

  test('with a smaller k gives the beginning of the longer list', () => {
    fc.assert(
      fc.property(corpus, text, fc.integer({ min: 1, max: 20 }), (documents, query, k) => {
        const small = SmallCorpus.of(documents)
        const all = small.search(query, 1_000)
        expect(small.search(query, k).documents).toEqual(all.documents.slice(0, k))
      }),
    )
  })

  test('gives equal documents in order of their numbers, and none without a term', () => {
    const { documents, scores } = SmallCorpus.of(['x a', 'a x', 'b', 'x a', '']).search('a', 2)
    expect([...documents]).toEqual([0, 1])
    expect(scores[0]).toBe(scores[1])
    expect(SmallCorpus.of(['', 'b']).search('nothing here', 10).documents).toHaveLength(0)
    expect(SmallCorpus.of(['', '']).search('a', 10).documents).toHaveLength(0)
  })

  test('that no device takes is refused before it is run', () => {
    const query = { terms: Uint32Array.of(1, 2), weights: Float64Array.of(1, 2), meanLength: 3, k: 4 }
    expect(() => checkQuery(query)).not.toThrow()
    for (const wrong of [
      { k: 0 },
      { k: 1_001 },
      { k: 1.5 },
      { terms: Uint32Array.of(2, 2) },
      { weights: Float64Array.of(1) },
      { weights: Float64Array.of(1, 0) },
      { weights: Float64Array.of(1, Number.NaN) },
      { meanLength: 0 },
      { terms: new Uint32Array(40_000), weights: new Float64Array(40_000) },
    ]) {
      expect(() => checkQuery({ ...query, ...wrong })).toThrowError(
        expect.objectContaining({ code: 'invalid_input' }),
      )
    }
  })

  test('weighs a rare term more, and one that all documents have still above 0', () => {
    expect(inverseDocumentFrequency(100, 1)).toBeGreaterThan(inverseDocumentFrequency(100, 50))
    expect(inverseDocumentFrequency(100, 100)).toBeGreaterThan(0)
  })
})

describe('shards', () => {
  test('joined and cut again are what was built at once', () => {
    fc.assert(
      fc.property(corpus, fc.array(fc.nat(), { maxLength: 5 }), fc.nat(), fc.nat(), (documents, at, a, b) => {
        const whole = SmallCorpus.of(documents)
        const pieces = SmallCorpus.of(
          documents,
          at.map((cut) => cut % documents.length),
        ).shards
        const first = a % documents.length
        const count = b % (documents.length - first + 1)
        expect(finished(mergeShards(pieces, first, count)).bytes).toEqual(
          finished(mergeShards(whole.shards, first, count)).bytes,
        )
        expect(finished(mergeShards(pieces, 0, documents.length)).bytes).toEqual(whole.shards[0]?.bytes)
      }),
    )
  })

  test('of which one byte is damaged are refused, and what was held stays', () => {
    const [shard] = SmallCorpus.of(['a b c', 'b c d', 'a a a a b']).shards
    if (shard === undefined) throw new Error('no shard')
    fc.assert(
      fc.property(fc.nat({ max: shard.bytes.length - 1 }), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const store = new ShardStore()
        store.load('s', shard.bytes)
        const damaged = shard.bytes.slice()
        // The reserved word at the end of the header is covered as well.
        damaged[at] = (damaged[at] ?? 0) ^ change
        expect(() => store.load('s', damaged)).toThrowError(expect.objectContaining({ code: 'corrupt' }))
        expect(store.usedBytes).toBe(shard.bytes.length)
      }),
    )
  })

  test('of any bytes, cut off or made up, are refused', () => {
    const [shard] = SmallCorpus.of(['a b c', 'b c d']).shards
    if (shard === undefined) throw new Error('no shard')
    const store = new ShardStore()
    const refused = (bytes: Uint8Array) => {
      expect(() => store.load('s', bytes)).toThrowError(expect.objectContaining({ code: 'corrupt' }))
    }
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), refused))
    for (let length = 0; length < shard.bytes.length; length += 1) refused(shard.bytes.subarray(0, length))
  })

  test('hold counts of any size', () => {
    const small = SmallCorpus.of(['a '.repeat(100_000), 'b a', 'a '.repeat(200)])
    expect([...small.search('a', 3).documents]).toEqual([0, 2, 1])
  })
})

describe('words', () => {
  test('are letters and digits of any script, in lower case', () => {
    const words = (of: string) => [...countWords(of).counts.keys()]
    expect(words("The cat's 3 Übergrößen, naïve-looking")).toEqual([
      ...['the', 'cat', 's', '3', 'übergrößen', 'naïve', 'looking'],
    ])
    expect(words('שלום עולם — مرحبا')).toEqual(['שלום', 'עולם', 'مرحبا'])
    expect(words('हिन्दी में')).toEqual(['हिन्दी', 'में'])
    expect(words('東京 タワー')).toEqual(['東京', 'タワー'])
    expect(words('ＡＢＣ　ﬁne ①')).toEqual(['abc', 'fine', '1'])
    expect(words('👩‍👩‍👧 🙂 \ud800 \udfff ​ \u0301')).toEqual([])
    expect(words('𝔘nicode 𐐀')).toEqual(['unicode', '𐐨'])
  })

  test('of canonically equivalent texts are the same', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (any) => {
        expect(countWords(any.normalize('NFD'))).toEqual(countWords(any.normalize('NFC')))
      }),
    )
  })

  test('of any text have at least one letter or digit, at most 128 code points, and no lone surrogate', () => {
    const lone = fc.integer({ min: 0xd800, max: 0xdfff }).map((unit) => String.fromCharCode(unit))
    const any = fc.array(fc.oneof(fc.string({ unit: 'binary' }), lone)).map((parts) => parts.join(''))
    fc.assert(
      fc.property(any, (text) => {
        const { counts, length } = countWords(text)
        let sum = 0
        for (const [word, count] of counts) {
          expect(word).toMatch(/^[\p{L}\p{N}][\p{L}\p{M}\p{N}]*$/u)
          expect(Buffer.from(word, 'utf8').toString('utf8')).toBe(word)
          expect([...word].length).toBeLessThanOrEqual(128)
          sum += count
        }
        expect(length).toBe(sum)
      }),
    )
  })

  test('that never end are cut', () => {
    expect([...countWords('x'.repeat(1_000)).counts]).toEqual([
      ['x'.repeat(128), 7],
      ['x'.repeat(104), 1],
    ])
  })
})

describe('a shard store alone', () => {
  const context = bm25Context(new ShardStoreDevice())
  test.each(bm25Suite.cases)('$name', ({ run }) => run(context))
})
