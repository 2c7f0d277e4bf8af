import { describe, expect, test } from 'vitest'
import { localAttention } from './local-attention.js'

const model = { name: 'skald', contextTokensMax: 4_096 }

describe('attention of the engine in this process', () => {
  test('is dense unless a sparse method is named', () => {
    for (const attention of [undefined, 'dense', 'auto']) {
      expect(localAttention(attention === undefined ? {} : { attention }, model)).toBeUndefined()
    }
  })

  test('takes a budget in tokens or as a share of the context', () => {
    expect(localAttention({ attention: 'page-bounds', budget: '512' }, model)).toEqual({
      method: 'page-bounds',
      budget: { tokens: 512 },
    })
    expect(localAttention({ attention: 'recent', budget: '12.5 %', attend: 'local' }, model)).toEqual({
      method: 'recent',
      budget: { share: 0.125 },
    })
  })

  test.each([
    [{ attention: 'quest', budget: '1' }, 'use auto, dense, page-bounds'],
    [{ attention: 'random' }, 'needs --budget'],
    [{ budget: '25%' }, 'needs --attention'],
    [{ attention: 'dense', budget: '25%' }, 'needs --attention'],
    [{ attention: 'page-bounds', budget: 'half' }, 'give tokens'],
    [{ attention: 'recent', budget: '0' }, 'give tokens'],
    [{ attention: 'recent', budget: '-1' }, 'give tokens'],
    [{ attention: 'recent', budget: '0%' }, 'give tokens'],
    [{ attention: 'recent', budget: '101%' }, 'give tokens'],
    [{ attention: 'recent', budget: '1e3' }, 'give tokens'],
    [{ attention: 'page-bounds', budget: '4097' }, 'above the context of skald'],
    [{ attention: 'page-bounds', budget: '25%', attend: 'partial' }, 'leave --attend out'],
  ])('refuses %j and says what to do', (options, sentence) => {
    expect(() => localAttention(options, model)).toThrow(sentence)
  })
})
