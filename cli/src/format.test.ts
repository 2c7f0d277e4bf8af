import { expect, test } from 'vitest'
import { bytesOption, rateOption } from './commands/option-values.js'
import { formatBytes, formatCount, formatDuration, formatForeign, formatRate, formatShare } from './format.js'

test('durations, sizes, rates and shares have three digits that matter', () => {
  expect([0.0004, 0.95, 12.34, 999, 4_560].map(formatDuration)).toEqual([
    ...['0 µs', '950 µs', '12.3 ms', '999 ms', '4.56 s'],
  ])
  expect([0, 999, 1_570_000, 2e15].map(formatBytes)).toEqual(['0 B', '999 B', '1.57 MB', '2.00 PB'])
  expect([null, 0, 25e6].map(formatRate)).toEqual(['–', '–', '25.0 MB/s'])
  expect([null, -0.1, 0.974].map(formatShare)).toEqual(['–', '0 %', '97 %'])
  expect([0, 1, 2].map((count) => formatCount(count, 'chunk'))).toEqual(['0 chunks', '1 chunk', '2 chunks'])
})

test('a rate is bytes a second with or without a unit', () => {
  expect(['25000000', '25M', '1.5G', '2k'].map(rateOption)).toEqual([25e6, 25e6, 1.5e9, 2e3])
  for (const wrong of ['', '25 M', '-1', '0', '5T']) expect(() => rateOption(wrong)).toThrow(/bytes a second/)
})

test('bytes of a memory may be none only where that is meant', () => {
  expect(['64000000', '64M', '1.5G', '2k'].map(bytesOption(1))).toEqual([64e6, 64e6, 1.5e9, 2e3])
  expect(bytesOption(0)('0')).toBe(0)
  for (const wrong of ['0', '', '64MB', '-1', '1e9', '1T', '99999999999G']) {
    expect(() => bytesOption(1)(wrong)).toThrow(/Give bytes, such as/)
  }
})

test("somebody else's text keeps its letters and does nothing to the terminal", () => {
  const kept = 'e\u0301tude 東京 👩‍👩‍👧 \u200fעברית'
  expect(formatForeign(kept)).toBe(kept)
  expect(formatForeign('a\u001b[31m\u0000b\r\n\tc \u202ed\u2066e')).toBe('a�[31m�b c �d�e')
})
