import { resolveModel } from '@kvasir/engine/model-files'
import { expect, it } from 'vitest'
import { prefillFlop } from './engine.js'

it('counts the products that a prefill makes: of the last layer and the head the last row only', async () => {
  const { config } = await resolveModel('dummy:llama-tiny')
  // Hidden 72; 6 query and 2 KV heads of 32; an MLP of 180; 515 tokens; 3 layers.
  const queryKeyValue = 72 * (192 + 64 + 64)
  const rest = 72 * 192 + 3 * 72 * 180
  const head = 72 * 515
  expect(prefillFlop(config, 1)).toBe(2 * (3 * (queryKeyValue + rest) + head))
  expect(prefillFlop(config, 10)).toBe(2 * (10 * (3 * queryKeyValue + 2 * rest) + rest + head))
})
