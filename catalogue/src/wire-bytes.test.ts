import { expect, it } from 'vitest'
import { builtinCatalogue } from './load-catalogue.js'
import { wireBytesPerToken } from './wire-bytes.js'

it('sends four bytes a value, or one and a scale of four for each head of K and of V', () => {
  const model = builtinCatalogue().models.get('llama-3.1-8b')
  if (!model) throw new Error('no model')
  expect(model.kvValuesPerToken).toBe(2 * 32 * 8 * 128)
  expect(wireBytesPerToken(model, 'exact')).toBe(4 * 65_536)
  expect(wireBytesPerToken(model, 'paper')).toBe(65_536 + 2 * 32 * 8 * 4)
})
