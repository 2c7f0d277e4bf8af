/** What a step computes, as the catalogue is asked for it. */
import { BLOCK_TOKENS, type StepSequence } from '@kvasir/engine/device-driver'
import { expect, test } from 'vitest'
import { stepWorkOf } from './step-work.js'

const KV = 100

function decode(start: number, blocks: readonly number[], more: Partial<StepSequence> = {}): StepSequence {
  return { blocks: Uint32Array.from(blocks), start, tokens: Uint32Array.of(7), wantLogits: true, ...more }
}

test('chunks of prompts and decoding sequences are told apart by their new tokens', () => {
  const chunk = { ...decode(32, [0, 1, 2, 3]), tokens: new Uint32Array(20) }
  expect(stepWorkOf([chunk, decode(39, [4, 5, 6])], 0, [100], KV)).toEqual({
    prefills: [{ start: 32, count: 20 }],
    decodes: [40],
  })
})

test('KV is read from the memory that each block is in, and what moved meanwhile is paid for in both', () => {
  const { kvReadBytes } = stepWorkOf([decode(39, [0, 10, 1])], 2, [4, 20], KV)
  const moved = 2 * BLOCK_TOKENS * KV
  expect(kvReadBytes).toEqual([moved + 24 * KV, moved + 16 * KV])
})

test('pages that are left out, or that another device attends to, are not read', () => {
  const sparse = decode(63, [0, 1, 2, 3], { attention: { method: 'recent', pages: 2, seed: 0 } })
  expect(stepWorkOf([sparse], 0, [100], KV).decodes).toEqual([32])
  const ask = async () => Promise.reject(new Error('not asked'))
  const offloaded = decode(63, [9], { remote: { pages: 3, mode: 'partial', ask } })
  const { decodes, kvReadBytes } = stepWorkOf([offloaded], 0, [4, 20], KV)
  expect(decodes).toEqual([16])
  expect(kvReadBytes).toEqual([0, 16 * KV])
})
