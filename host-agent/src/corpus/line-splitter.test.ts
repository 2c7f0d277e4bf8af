import fc from 'fast-check'
import { expect, test } from 'vitest'
import { LineSplitter } from './line-splitter.js'

const bound = 20

function split(bytes: Uint8Array, cuts: readonly number[]): { number: number; text: string | undefined }[] {
  const splitter = new LineSplitter(bound)
  const ends = [...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length].sort((a, b) => a - b)
  const lines: { number: number; text: string | undefined }[] = []
  const keep = (line: { number: number; bytes: Uint8Array | undefined }) =>
    lines.push({
      number: line.number,
      text: line.bytes === undefined ? undefined : Buffer.from(line.bytes).toString('latin1'),
    })
  let begin = 0
  for (const end of ends) {
    for (const line of splitter.push(bytes.subarray(begin, end))) keep(line)
    begin = end
  }
  for (const line of splitter.finish()) keep(line)
  return lines
}

test('lines are the same wherever the bytes are cut; those over the bound come without their bytes', () => {
  const line = fc.string({ unit: fc.constantFrom('a', 'b', '\r', ' '), maxLength: 2 * bound })
  const text = fc.array(line, { maxLength: 8 }).map((lines) => lines.join('\n'))
  fc.assert(
    fc.property(text, fc.array(fc.nat(), { maxLength: 10 }), (whole, cuts) => {
      const parts = whole.split('\n')
      if (parts.at(-1) === '') parts.pop()
      expect(split(Buffer.from(whole, 'latin1'), cuts)).toEqual(
        parts.map((part, index) => ({
          number: index + 1,
          text: part.length > bound ? undefined : part,
        })),
      )
    }),
  )
})

test('a line of any length holds no more than the bound', () => {
  const splitter = new LineSplitter(bound)
  for (let part = 0; part < 1_000; part += 1) expect([...splitter.push(Buffer.alloc(1_000, 97))]).toEqual([])
  const [long, next] = [...splitter.push(Buffer.from('\nnext\n'))]
  expect(long).toEqual({ number: 1, bytes: undefined })
  expect(Buffer.from(next?.bytes ?? []).toString()).toBe('next')
})
