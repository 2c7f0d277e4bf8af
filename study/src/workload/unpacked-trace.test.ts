import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { traceFacts, traceRows } from './trace-file.js'
import { withUnpacked } from './unpacked-trace.js'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvasir-unpacked-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

const never = new AbortController().signal
const CSV = 'arrival_ms,prompt_tokens,output_tokens\n'

function fileOf(bytes: Buffer | string): string {
  const file = join(folder, 'trace.csv')
  writeFileSync(file, bytes)
  return file
}

function rowsOf(file: string) {
  return withUnpacked(file, never, async (unpacked) => {
    const source = { file, brokenRows: 'refuse' as const, ...(unpacked === undefined ? {} : { unpacked }) }
    return [...traceRows(source, traceFacts(source))]
  })
}

test.each([
  ['csv', `${CSV}1,5,6\n2,7,8\n`],
  ['azure', 'TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n'],
  ['burstgpt', 'Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,a,472,18,490,b\n'],
  ['mooncake', '{"timestamp":27,"input_length":600,"output_length":3,"hash_ids":[46,47]}\n'],
  ['jsonl', '{"arrival_s":1,"prompt_tokens":9,"output_tokens":1}\n'],
])('a gzip %s trace has the rows of the plain one, whatever its name', async (_format, text) => {
  const plain = await rowsOf(fileOf(text))
  expect(plain.length).toBeGreaterThan(0)
  expect(await rowsOf(fileOf(gzipSync(text)))).toEqual(plain)
})

test('several gzip files one after another are one trace', async () => {
  const file = fileOf(Buffer.concat([gzipSync(`${CSV}1,5,6\n`), gzipSync('2,7,8\n')]))
  expect((await rowsOf(file)).map(({ line }) => line)).toEqual([2, 3])
})

test('the temporary file is gone when its user has ended, well or not', async () => {
  const file = fileOf(gzipSync(CSV))
  const seen: string[] = []
  const look = (unpacked = '') => {
    expect(existsSync(unpacked)).toBe(true)
    seen.push(unpacked)
  }
  await withUnpacked(file, never, async (unpacked) => look(unpacked))
  const failing = withUnpacked(file, never, async (unpacked) => {
    look(unpacked)
    throw new Error('the user failed')
  })
  await expect(failing).rejects.toThrow('the user failed')
  expect(seen.map((each) => existsSync(each))).toEqual([false, false])
})

test('what is cut off or broken, and a wrong row, is one sentence with the name of the file', async () => {
  const whole = gzipSync(`${CSV}${'1,5,6\n'.repeat(2_000)}`)
  const cut = fileOf(whole.subarray(0, whole.length - 20))
  await expect(rowsOf(cut)).rejects.toThrow(InvalidInputError)
  await expect(rowsOf(cut)).rejects.toThrow(`The trace ${cut} is cut off`)
  const damaged = Buffer.from(whole)
  damaged[whole.length - 8] = (damaged[whole.length - 8] ?? 0) ^ 0xff
  await expect(rowsOf(fileOf(damaged))).rejects.toThrow(`The trace ${cut} is a broken gzip file`)
  await expect(rowsOf(fileOf(gzipSync(`${CSV}x,5,6\n`)))).rejects.toThrow(`${cut}: 1 row is broken: line 2`)
})
