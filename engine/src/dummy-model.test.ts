import { afterAll, describe, expect, it } from 'vitest'
import { dummyWeights } from './dummy-model.js'
import { dummyConfig } from './dummy-shapes.js'
import { createLocalGenerator, type LocalGenerator } from './local-generator.js'
import { parameterCount } from './model-plan.js'

const generators: LocalGenerator[] = []
afterAll(() => Promise.all(generators.map((generator) => generator.close())))

describe('generated models', () => {
  it.each([
    ['tinyllama-1.1b', 1_100_048_384],
    ['qwen2.5-0.5b', 494_032_768],
    ['llama-3.2-1b', 1_235_814_400],
    ['llama-2-7b', 6_738_415_616],
  ])('%s has as many parameters as the model that it is named after', (name, parameters) => {
    expect(parameterCount(dummyConfig(name))).toBe(parameters)
  })

  it.each(['llama-tiny', 'qwen-tiny'])('%s tells a text that does not run in circles', async (name) => {
    const generator = await createLocalGenerator({ model: `dummy:${name}` })
    generators.push(generator)
    const sampling = { temperature: 0, topP: 1, topK: 0, seed: 0n, logprobs: false, topLogprobs: 0 }
    for (const prompt of [[256, 72, 101, 108], [5]]) {
      const tokens: number[] = []
      for await (const { id } of generator.generate(prompt, { sampling, maxTokens: 240, stopTokens: [] })) {
        tokens.push(id)
      }
      expect(new Set(tokens).size).toBeGreaterThan(80)
      // Whatever its length, a circle that had begun would show in the last tokens.
      expect(new Set(tokens.slice(-60)).size).toBeGreaterThan(20)
    }
  })

  it('give any rows of a matrix as they are in the whole', () => {
    const source = dummyWeights('qwen-tiny')
    const whole = new Float32Array(192 * 96)
    source.read('model.layers.1.mlp.up_proj.weight', [192, 96], whole)
    const some = new Float32Array(3 * 96)
    source.readRows('model.layers.1.mlp.up_proj.weight', [192, 96], 50, some)
    expect(some).toEqual(whole.subarray(50 * 96, 53 * 96))
    const row = new Float32Array(96)
    source.rows('model.layers.1.mlp.up_proj.weight', [192, 96])(51, row)
    expect(row).toEqual(whole.subarray(51 * 96, 52 * 96))
  })
})
