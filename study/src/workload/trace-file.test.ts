import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fileLines } from './file-lines.js'
import { type BrokenRows, traceFacts, traceRows } from './trace-file.js'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvasir-trace-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

function traceOf(text: string | Buffer): string {
  const file = join(folder, 'trace')
  writeFileSync(file, text)
  return file
}

function read(text: string, brokenRows: BrokenRows = 'refuse', format?: string) {
  const source = { file: traceOf(text), brokenRows, ...(format === undefined ? {} : { format }) }
  const facts = traceFacts(source)
  return { facts, rows: [...traceRows(source, facts)] }
}

describe('formats are recognised by their first line', () => {
  test('Azure of 2023, with seven digits of a second', () => {
    const { facts, rows } = read(
      'TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n',
    )
    expect(facts).toMatchObject({ format: 'azure', rows: 2, idTokens: 0 })
    expect(facts.lastTimeMs - facts.firstTimeMs).toBeCloseTo(52, 3)
    expect(rows[0]).toMatchObject({ line: 2, row: { promptTokens: 4808, outputTokens: 10 } })
  })

  test('Azure of 2024, with a time zone', () => {
    const { facts, rows } = read(
      'TIMESTAMP,ContextTokens,GeneratedTokens\r\n2024-05-10 00:00:00.009930+00:00,2162,5\r\n2024-05-10 02:00:00.009930+02:00,2399,6\r\n',
    )
    expect(facts.format).toBe('azure')
    expect(rows[0]?.row.timeMs).toBe(rows[1]?.row.timeMs)
  })

  test('Mooncake, with ids of blocks of 512 tokens', () => {
    const { facts, rows } = read(
      '{"timestamp": 27, "input_length": 1100, "output_length": 3, "hash_ids": [46, 47, 48]}\n',
    )
    expect(facts).toMatchObject({ format: 'mooncake', idTokens: 512, firstTimeMs: 27 })
    expect(rows[0]?.row).toMatchObject({ ids: [46, 47, 48], idTokens: 512 })
  })

  test('BurstGPT in both forms; a response of 0 tokens is a broken row that says why', () => {
    const old = read(
      'Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,Conversation log\n',
      'keep-rest',
    )
    expect(old.facts).toMatchObject({ format: 'burstgpt', rows: 1, brokenRows: 1, firstTimeMs: 5_000 })
    expect(old.facts.brokenTold[0]).toMatch(/^line 3: .*failed/)
    const newer = read(
      'Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,9,1.5,GPT-4,472,18,490,API log\n',
    )
    expect(newer.rows[0]?.row).toMatchObject({ timeMs: 5_000, promptTokens: 472, outputTokens: 18 })
  })

  test('plain CSV and JSON lines, with what is optional', () => {
    const csv = read(
      'tenant;arrival_s;prompt_tokens;output_tokens;priority;blocks;block_tokens\n"a;b";1.5;64;4;2;7 8;32\n;2;5;5;;;\n',
    )
    expect(csv.facts.format).toBe('csv')
    expect(csv.rows[0]?.row).toEqual({
      ...{ timeMs: 1_500, promptTokens: 64, outputTokens: 4 },
      ...{ tenant: 'a;b', priority: 2, ids: [7, 8], idTokens: 32 },
    })
    const jsonl = read(
      '{"timestamp":"2024-01-01T00:00:00Z","prompt_tokens":9,"output_tokens":1,"blocks":[3]}',
    )
    expect(jsonl.facts).toMatchObject({ format: 'jsonl', idTokens: 16 })
  })
})

describe('what is wrong is said with its line', () => {
  const header = 'arrival_ms,prompt_tokens,output_tokens\n'

  test('broken rows are refused with how many, which and why, or left out and counted', () => {
    const text = `${header}0,5,5\nx,5,5\n1,0,5\n2,5,-1\n3,5,5.5\n4,5,99999999\n5,,5\n\n6,5,5,5\n7,5,5\n`
    expect(() => read(text)).toThrow(InvalidInputError)
    expect(() => read(text)).toThrow(/7 rows are broken: line 3: arrival_ms is "x".*line 4: .*and 2 more/s)
    const { facts, rows } = read(text, 'keep-rest')
    expect(facts).toMatchObject({ rows: 2, brokenRows: 7 })
    expect(rows.map(({ line }) => line)).toEqual([2, 11])
  })

  test.each([
    ['arrival_s,prompt_tokens,output_tokens\nx,5,5\n', /line 2: arrival_s is "x"/],
    ['timestamp,prompt_tokens,output_tokens\nx,5,5\n', /line 2: timestamp is "x"/],
    ['{"timestamp":true,"prompt_tokens":5,"output_tokens":5}', /line 1: timestamp is true/],
    [
      'arrival_s,prompt_tokens,output_tokens\n,5,5\n',
      /line 2: the time \(arrival_ms, arrival_s or timestamp\) is missing/,
    ],
  ])('a broken time is told by the field that it stands in', (text, message) => {
    expect(() => read(text)).toThrow(message)
  })

  test('times that run backwards are refused with the line, or sorted', () => {
    const text = `${header}5,1,1\n3,2,2\n9,3,3\n`
    expect(() => read(text)).toThrow(/:3: the time runs backwards/)
    const { facts, rows } = read(text, 'keep-rest')
    expect(facts).toMatchObject({ isSorted: false, firstTimeMs: 3 })
    expect(rows.map(({ row }) => row.promptTokens)).toEqual([2, 1, 3])
  })

  test.each([
    ['nothing in it', '', /is empty/],
    ['a header alone', header, /no row that is a request/],
    ['a first line nobody knows', 'a,b\n1,2\n', /:1: no known format begins with "a,b"/],
    ['only broken rows', `${header}x,1,1\n`, /1 row is broken/],
  ])('%s', (_what, text, message) => {
    expect(() => read(text)).toThrow(message)
  })

  test('a file that is compressed, one that is not there, a format nobody knows, ids that are too few', () => {
    const file = traceOf(Buffer.from([0x1f, 0x8b, 8, 0]))
    expect(() => traceFacts({ file, brokenRows: 'refuse' })).toThrow(/compressed: unpack it/)
    expect(() => traceFacts({ file: join(folder, 'none'), brokenRows: 'refuse' })).toThrow(/cannot be read/)
    expect(() => read(`${header}1,1,1\n`, 'refuse', 'azur')).toThrow(/did you mean azure/)
    expect(() => read(`${header}1,1,1\n`, 'refuse', 'azure')).toThrow(/contexttokens/)
    const few = '{"timestamp":0,"input_length":1024,"output_length":1,"hash_ids":[1]}'
    expect(() => read(few)).toThrow(/line 1: hash_ids has 1 ids/)
  })
})

test('lines are the same however the file is cut into pieces', () => {
  const text = `\uFEFF${Array.from({ length: 40_000 }, (_, index) => `zeile ${index} äöü`).join('\r\n')}`
  const lines = [...fileLines(traceOf(text))]
  expect(lines).toHaveLength(40_000)
  expect(lines[0]).toEqual({ number: 1, text: 'zeile 0 äöü' })
  expect(lines.every(({ number, text: line }) => line === `zeile ${number - 1} äöü`)).toBe(true)
})
