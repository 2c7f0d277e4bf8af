import { expect, it } from 'vitest'
import { didYouMean } from './did-you-mean.js'

const devices = [
  'v100s',
  'a10',
  'a100-40-pcie',
  'a100-80-pcie',
  'u280',
  'h100-sxm',
  'h100-pcie',
  'h100-nvl',
  'h100-b',
]

it.each([
  ['u281', '; did you mean u280'],
  ['U280', '; did you mean u280'],
  ['a100', '; did you mean a100-40-pcie or a100-80-pcie'],
  ['a100-40', '; did you mean a100-40-pcie'],
  ['a100x', '; did you mean a100-40-pcie'],
  ['h100', '; did you mean h100-sxm, h100-pcie, h100-nvl or h100-b'],
  ['a11', '; did you mean a10'],
  ['h200', '; did you mean h100-sxm'],
  ['tpu', ''],
  ['x', ''],
  ['', ''],
])('%s', (word, hint) => {
  expect(didYouMean(word, devices)).toBe(hint)
})

it('knows nothing near where nothing is known', () => {
  expect(didYouMean('u280', [])).toBe('')
})
