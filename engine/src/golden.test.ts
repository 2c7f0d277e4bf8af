/**
 * The bundled model against outputs of an independent f32 pass (models/skald/training/golden.py), by the way
 * that serves: driver, worker thread, prefill, then one token a step.
 */
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { NEAR_TIE, sampleToken } from './sampler.js'
import { type LoadedDriver, loadedDriver } from './testing/loaded-driver.js'

interface GoldenCase {
  prompt: string
  promptIds: number[]
  greedyIds: number[]
  lastLogitsTop8: [id: number, logit: number][]
  lastLogitsMean: number
}
const goldenUrl = new URL('../../models/skald/golden.json', import.meta.url)
const golden: { cases: GoldenCase[] } = JSON.parse(readFileSync(goldenUrl, 'utf8'))
const greedy = { temperature: 0, topP: 1, topK: 0, seed: 0n, logprobs: false, topLogprobs: 0 }
const blocks = Uint32Array.from({ length: 16 }, (_, i) => i)
const otherBlocks = Uint32Array.from({ length: 16 }, (_, i) => 31 - i)

let driver: LoadedDriver
beforeAll(async () => {
  driver = await loadedDriver('skald', 32)
  expect(driver.facts).toMatchObject({ name: 'skald', parameters: 2_755_008, layers: 6, stopTokens: [1] })
})
afterAll(() => driver.close())

async function run(at: Uint32Array, start: number, tokens: readonly number[]): Promise<Float32Array> {
  const part = { blocks: at, start, tokens: Uint32Array.from(tokens), wantLogits: true }
  return (await driver.step([part])).logits
}

describe.each(golden.cases)('$prompt', ({ promptIds, greedyIds, lastLogitsTop8, lastLogitsMean }) => {
  it('has the golden logits and goes on with the golden tokens, equal to a prefill of the whole', async () => {
    let logits = await run(blocks, 0, promptIds)
    for (const [id, logit] of lastLogitsTop8) expect(Math.abs((logits[id] ?? 0) - logit)).toBeLessThan(1e-3)
    const mean = logits.reduce((sum, logit) => sum + logit, 0) / logits.length
    expect(mean).toBeCloseTo(lastLogitsMean, 3)

    const tokens = [...promptIds]
    for (const [i, expected] of greedyIds.entries()) {
      const { id, nearTie } = sampleToken(logits, greedy, i)
      if (!nearTie) expect(id, `token ${i}`).toBe(expected)
      expect(nearTie, `no two logits within ${NEAR_TIE}`).toBe(false)
      tokens.push(id)
      logits = await run(blocks, tokens.length - 1, [id])
    }
    expect(await run(otherBlocks, 0, tokens)).toEqual(logits)
  })
})
