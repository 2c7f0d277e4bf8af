import { AttentionMethod } from '@kvasir/proto/kvasir/inference/v1/inference'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { describe, expect, it } from 'vitest'
import { checkAttention } from './attend-budget.js'

const { PAGE_BOUNDS, DENSE, UNSPECIFIED, RANDOM } = AttentionMethod
const budget = (method: AttentionMethod, budgetTokens: number, budgetShare: number) =>
  checkAttention({ method, budgetTokens, budgetShare }, 'DecodeRequest')

describe('a request for attention', () => {
  it('is dense where none is named', () => {
    expect(checkAttention(undefined, 'DecodeRequest')).toBeUndefined()
    expect(budget(DENSE, 0, 0)).toBeUndefined()
    expect(budget(UNSPECIFIED, 0, 0)).toBeUndefined()
  })

  it('needs one budget that is one', () => {
    for (const [tokens, share] of [
      [0, 0],
      [16, 0.5],
      [0, 1.01],
      [0, -0.1],
      [0, Number.NaN],
    ] as const) {
      expect(() => budget(PAGE_BOUNDS, tokens, share)).toThrow(InvalidInputError)
    }
    expect(budget(RANDOM, 0, 0.25)).toEqual({ method: 'random', budget: { share: 0.25 } })
  })

  it('has a method that is known', () => {
    expect(() => budget(AttentionMethod.UNRECOGNIZED, 16, 0)).toThrow('method')
  })
})
