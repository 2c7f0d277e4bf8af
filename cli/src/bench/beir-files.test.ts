import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { readJudgements, readQueries } from './beir-files.js'

const folder = mkdtempSync(join(tmpdir(), 'kvasir-beir-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function file(name: string, lines: readonly string[], end = '\n'): string {
  const path = join(folder, name)
  writeFileSync(path, lines.join(end))
  return path
}

const queries = [
  { id: '1', text: 'wolf' },
  { id: '2', text: 'fox and grapes' },
]
const queryLines = [
  '{"_id": "1", "text": "wolf"}',
  '',
  '{"_id": "2", "text": "fox and grapes", "metadata": {}}',
]
const header = 'query-id\tcorpus-id\tscore'

describe('queries', () => {
  test('are read in order, whatever ends the lines', async () => {
    expect(await readQueries(file('q.jsonl', queryLines))).toEqual(queries)
    expect(await readQueries(file('q.jsonl', queryLines, '\r\n'))).toEqual(queries)
    expect(await readQueries(file('q.jsonl', [`\ufeff${queryLines[0]}`]))).toEqual([queries[0]])
  })

  test.each([
    ['{"_id": "3"', /q\.jsonl, line 4: this is no JSON\./],
    ['[]', /line 4: "_id" is missing/],
    ['7', /line 4: expected an object/],
    ['{"text": "wolf"}', /line 4: "_id" is missing/],
    ['{"_id": 3, "text": "wolf"}', /line 4: "_id" is missing/],
    ['{"_id": "3", "text": " "}', /line 4: "text" is missing or empty/],
    ['{"_id": "2", "text": "wolf"}', /line 4: there is a query "2" already/],
  ])('%s is refused with its line', async (line, message) => {
    await expect(readQueries(file('q.jsonl', [...queryLines, line]))).rejects.toThrow(message)
  })

  test('of a file that is empty, is not there or is a folder are refused', async () => {
    await expect(readQueries(file('q.jsonl', ['', ' ']))).rejects.toThrow(/holds no query/)
    await expect(readQueries(join(folder, 'none'))).rejects.toThrow(/cannot be read \(ENOENT/)
    await expect(readQueries(folder)).rejects.toThrow(/cannot be read \(EISDIR/)
  })
})

describe('judgements', () => {
  test('are read by query, with or without the names of the columns', async () => {
    const rows = ['1\td1\t2', '1\td2\t0', '2\td1\t-1']
    const expected = new Map([
      [
        '1',
        new Map([
          ['d1', 2],
          ['d2', 0],
        ]),
      ],
      ['2', new Map([['d1', -1]])],
    ])
    expect(await readJudgements(file('r.tsv', [header, ...rows, '']), queries)).toEqual(expected)
    expect(await readJudgements(file('r.tsv', rows), queries)).toEqual(expected)
  })

  test.each([
    ['1 d1 1', /r\.tsv, line 3: expected query-id, corpus-id and a whole score/],
    ['1\td1', /line 3: expected/],
    ['1\td1\thigh', /line 3: expected/],
    ['1\t0\td1\t1', /line 3: expected/],
    ['9\td1\t1', /line 3: there is no query "9"/],
    ['1\td9\t1', /line 3: document "d9" is judged for query "1" already/],
  ])('%j is refused with its line', async (line, message) => {
    await expect(readJudgements(file('r.tsv', [header, '1\td9\t1', line]), queries)).rejects.toThrow(message)
  })

  test('of an empty file are refused', async () => {
    await expect(readJudgements(file('r.tsv', [header]), queries)).rejects.toThrow(/holds no judgement/)
  })
})
