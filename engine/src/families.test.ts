/**
 * Tiny models of every family against logits that PyTorch computed from the published formulas
 * (engine/fixtures/families/make.py).
 */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'
import { resolveModel } from './model-files.js'
import { EXACT } from './numerics.js'
import { Transformer } from './transformer.js'

interface GoldenCase {
  readonly prompt: number[]
  /** After the prompt's last token. */
  readonly logits: number[]
  readonly greedy: number[]
}

const FAMILIES = ['llama-2', 'llama-3.2', 'mistral', 'qwen2', 'qwen2.5', 'qwen3']
/** Largest difference, relative to the largest logit: f32 and f64 differ by less than a millionth here. */
const TOLERANCE = 1e-5

const folderOf = (family: string) => fileURLToPath(new URL(`../fixtures/families/${family}`, import.meta.url))
const hooks = { onLayer: () => {}, between: () => false }
const blocks = Uint32Array.from({ length: 8 }, (_, i) => (i * 5) % 8)
const loaded: Transformer[] = []
afterAll(() => Promise.all(loaded.map((model) => model.release())))

async function load(family: string): Promise<Transformer> {
  const options = { model: folderOf(family), numerics: EXACT, kvBlocksMax: 8 }
  const model = await Transformer.load(options, { threads: 2 }, () => false)
  loaded.push(model)
  return model
}

/** Logits after the last of `tokens`, which come in steps of these lengths, the last as often as is needed. */
async function logitsInSteps(
  model: Transformer,
  tokens: readonly number[],
  lengths: readonly number[],
): Promise<number[]> {
  let logits: number[] = []
  for (let start = 0, step = 0; start < tokens.length; step++) {
    const length = lengths[Math.min(step, lengths.length - 1)] ?? 1
    const part = Uint32Array.from(tokens.slice(start, start + length))
    const result = await model.step([{ blocks, start, tokens: part, wantLogits: true }], hooks)
    logits = [...result.logits]
    start += part.length
  }
  return logits
}

function errorOf(logits: readonly number[], expected: readonly number[]): number {
  const scale = Math.max(...expected.map(Math.abs))
  return Math.max(...expected.map((value, i) => Math.abs(value - (logits[i] ?? Number.NaN)))) / scale
}

describe.each(FAMILIES)('a model of the family %s', (family) => {
  const goldenFile = `${folderOf(family)}/golden.json`
  const { cases }: { cases: GoldenCase[] } = JSON.parse(readFileSync(goldenFile, 'utf8'))

  it('gives the logits that the formulas give, however the prompt is cut', async () => {
    const model = await load(family)
    expect(cases.map(({ prompt }) => prompt.length)).toEqual([1, 7, 16, 33, 90])
    for (const { prompt, logits } of cases) {
      expect(logits).toHaveLength(model.facts.vocabularySize)
      const whole = await logitsInSteps(model, prompt, [90])
      expect(errorOf(whole, logits)).toBeLessThan(TOLERANCE)
      expect(await logitsInSteps(model, prompt, [5, 17, 30])).toEqual(whole)
      expect(await logitsInSteps(model, prompt, [1])).toEqual(whole)
    }
  })

  it('goes on with the tokens that the formulas choose', async () => {
    const model = await load(family)
    for (const { prompt, greedy } of cases) {
      const tokens = [...prompt]
      let logits = await logitsInSteps(model, tokens, [90])
      for (const expected of greedy) {
        const best = logits.indexOf(Math.max(...logits))
        expect(best).toBe(expected)
        const step = { blocks, start: tokens.length, tokens: Uint32Array.of(best), wantLogits: true }
        logits = [...(await model.step([step], hooks)).logits]
        tokens.push(best)
      }
    }
  })
})

it('have what their families have', async () => {
  const features = async (family: string) => {
    const { config, stopTokens } = await resolveModel(folderOf(family))
    const { qkvBias, qkNorm, tiedEmbeddings, slidingWindow, ropeScaling } = config
    return {
      heads: `${config.heads}/${config.kvHeads}/${config.headDim}`,
      also: Object.entries({ qkvBias, qkNorm, tiedEmbeddings, slidingWindow, ropeScaling })
        .flatMap(([name, value]) => (value ? [name] : []))
        .join(' '),
      stopTokens,
    }
  }
  expect(await Promise.all(FAMILIES.map(features))).toEqual([
    { heads: '4/4/8', also: '', stopTokens: [2] },
    { heads: '4/2/16', also: 'tiedEmbeddings ropeScaling', stopTokens: [2, 3] },
    { heads: '4/2/8', also: 'slidingWindow', stopTokens: [2] },
    { heads: '4/2/8', also: 'qkvBias slidingWindow', stopTokens: [2] },
    { heads: '4/2/8', also: 'qkvBias tiedEmbeddings', stopTokens: [2] },
    { heads: '4/2/16', also: 'qkNorm tiedEmbeddings', stopTokens: [2] },
  ])
})
