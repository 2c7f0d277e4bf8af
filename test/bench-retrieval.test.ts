/** `kvasir bench retrieval` on a collection of the test's own, held against a textbook's BM25. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Workplace } from './support/commands.js'
import { fixtureDocuments, jsonlOf, textbookFigures } from './support/textbook-bm25.js'

const documents = fixtureDocuments(300)
const queries = [
  { _id: 'q1', text: 'the wolf and the fox' },
  { _id: 'q2', text: 'winter KING' },
  { _id: 'q3', text: 'donkey, bone; Straße' },
  { _id: 'q4', text: 'nothing of that' },
]
/** Graded; `gone` is no document, and q4 is not judged. */
const grades = {
  q1: { 'doc-3': 1, 'doc-7': 2, 'doc-120': 1, 'doc-250': 3 },
  q2: { 'doc-10': 2, 'doc-44': 0, gone: 1 },
  q3: { 'doc-1': 1, 'doc-2': 1 },
}
let workplace: Workplace

beforeAll(() => {
  workplace = new Workplace()
})
afterAll(() => workplace?.close())

function file(name: string, text: string): string {
  const path = join(workplace.home, name)
  writeFileSync(path, text)
  return path
}

function qrels(): string {
  const rows = Object.entries(grades).flatMap(([query, ofQuery]) =>
    Object.entries(ofQuery).map(([document, grade]) => `${query}\t${document}\t${grade}\n`),
  )
  return `query-id\tcorpus-id\tscore\n${rows.join('')}`
}

const bench = (corpus: string, queryFile: string, judgements: string) =>
  workplace.run(
    `node cli/bin/kvasir.mjs bench retrieval --corpus ${corpus} --queries ${queryFile} --qrels ${judgements} --json`,
  )

test('nDCG and recall are those of a textbook, whole and sharded', { timeout: 180_000 }, async () => {
  const result = await bench(
    file('corpus.jsonl', jsonlOf(documents)),
    file('queries.jsonl', jsonlOf(queries)),
    file('qrels.tsv', qrels()),
  )
  expect(result.code, result.stderr).toBe(0)
  const { name, figures, rows } = JSON.parse(result.stdout)
  expect(name).toBe('retrieval')
  const expected = textbookFigures(documents, queries, grades)
  expect(expected.ndcg10).toBeGreaterThan(0)
  expect(figures.ndcg10).toBeCloseTo(expected.ndcg10, 12)
  expect(figures.recall100).toBeCloseTo(expected.recall100, 12)
  expect(figures.shardedEqualsWhole).toBe(1)
  for (const figure of ['p50Ms', 'p99Ms', 'queriesPerSecond']) {
    expect(figures[figure]).toBeGreaterThan(0)
    expect(figures[`sharded${figure.charAt(0).toUpperCase()}${figure.slice(1)}`]).toBeGreaterThan(0)
  }
  expect(rows).toHaveLength(queries.length)
})

test('what is wrong in one of the three files is said with its line', { timeout: 120_000 }, async () => {
  const corpus = file('corpus.jsonl', jsonlOf(documents))
  const queryFile = file('queries.jsonl', jsonlOf(queries))
  const badQueries = await bench(
    corpus,
    file('bad.jsonl', `${jsonlOf(queries)}{"_id": 7}\n`),
    file('qrels.tsv', qrels()),
  )
  expect(badQueries).toMatchObject({ code: 2, stdout: '' })
  expect(badQueries.stderr).toContain('bad.jsonl, line 5: "_id" is missing.')
  const badQrels = await bench(corpus, queryFile, file('bad.tsv', `${qrels()}q1 doc-1 1\n`))
  expect(badQrels.stderr).toContain('bad.tsv, line 11: expected query-id, corpus-id and a whole score')
  const badCorpus = file('bad.jsonl', `${jsonlOf(documents)}broken\n`)
  const broken = await bench(badCorpus, queryFile, file('qrels.tsv', qrels()))
  expect(broken).toMatchObject({ code: 2, stdout: '' })
  expect(broken.stderr).toContain('bad.jsonl, line 301: The line is not JSON')
})
