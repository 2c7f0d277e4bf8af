/** What each prompt of a step answers for. */
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { promptShares } from './prompt-shares.js'

const decode = { role: 'decode', count: 1 } as const
const prompt = (count: number) => ({ role: 'prefill', count }) as const

it('is by rows, whatever decodes beside', () => {
  expect(promptShares([prompt(256)])).toEqual([1])
  expect(promptShares([prompt(128), prompt(128)])).toEqual([0.5, 0.5])
  expect(promptShares([decode, prompt(64), decode, prompt(192)])).toEqual([0, 0.25, 0, 0.75])
  expect(promptShares([decode, decode])).toEqual([0, 0])
})

it('is together the whole step', () => {
  const part = fc.oneof(fc.constant(decode), fc.integer({ min: 1, max: 512 }).map(prompt))
  fc.assert(
    fc.property(fc.array(part, { maxLength: 20 }), fc.integer({ min: 1, max: 512 }), (parts, count) => {
      const shares = promptShares([...parts, prompt(count)])
      expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 12)
    }),
  )
})
