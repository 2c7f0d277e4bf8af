import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createLocalGenerator, type GenerateOptions, type LocalGenerator } from './local-generator.js'

const greedy: GenerateOptions = {
  sampling: { temperature: 0, topP: 1, topK: 0, seed: 0n, logprobs: false, topLogprobs: 0 },
  maxTokens: 12,
  stopTokens: [],
}
const prompt = (length: number, seed: number) => Array.from({ length }, (_, i) => (seed * 31 + i * i) % 500)

let engine: LocalGenerator
beforeAll(async () => {
  engine = await createLocalGenerator({ model: 'dummy:llama-tiny' })
})
afterAll(() => engine.close())

async function answer(tokens: readonly number[], options = greedy) {
  const ids: number[] = []
  let finishReason: string | undefined
  for await (const token of engine.generate(tokens, options)) {
    ids.push(token.id)
    finishReason = token.finishReason
  }
  return { ids, finishReason }
}

describe('an answer', () => {
  it('is the same alone and beside 40 others of all lengths', async () => {
    const prompts = Array.from({ length: 41 }, (_, i) => prompt(1 + ((i * 67) % 300), i))
    const alone = []
    for (const tokens of prompts.slice(0, 6)) alone.push(await answer(tokens))
    const together = await Promise.all(prompts.map((tokens) => answer(tokens)))
    expect(together.slice(0, 6)).toEqual(alone)
    expect(together.every(({ ids, finishReason }) => ids.length === 12 && finishReason === 'length')).toBe(
      true,
    )
  })

  it('drawn with a seed is drawn again the same', async () => {
    const options = { ...greedy, sampling: { ...greedy.sampling, temperature: 1, seed: 99n } }
    const first = await answer(prompt(20, 1), options)
    expect(await answer(prompt(20, 1), options)).toEqual(first)
    const other = { ...greedy, sampling: { ...options.sampling, seed: 100n } }
    expect(await answer(prompt(20, 1), other)).not.toEqual(first)
  })

  it('ends with its stop token', async () => {
    const { ids } = await answer(prompt(9, 2))
    const stop = ids[4] ?? 0
    const first = ids.indexOf(stop)
    const stopped = await answer(prompt(9, 2), { ...greedy, stopTokens: [stop] })
    expect(stopped).toEqual({ ids: ids.slice(0, first + 1), finishReason: 'stop' })
  })

  it('ends with the context', async () => {
    const context = engine.facts.contextTokensMax
    const { ids, finishReason } = await answer(prompt(context - 5, 3), { ...greedy, maxTokens: 100 })
    expect([ids.length, finishReason]).toEqual([5, 'length'])
  })

  it('ends when aborted, or when nobody listens, and others go on', async () => {
    const controller = new AbortController()
    const aborted = (async () => {
      for await (const _ of engine.generate(prompt(5, 4), {
        ...greedy,
        maxTokens: 2000,
        signal: controller.signal,
      })) {
        controller.abort(new Error('the client left'))
      }
    })()
    const left = (async () => {
      for await (const _ of engine.generate(prompt(5, 5), { ...greedy, maxTokens: 2000 })) break
    })()
    const other = answer(prompt(5, 6))
    await expect(aborted).rejects.toThrow('the client left')
    await left
    expect((await other).ids).toHaveLength(12)
  })
})

describe('attention', () => {
  const read = async (attention: NonNullable<GenerateOptions['attention']>, length = 200) => {
    const ids: number[] = []
    const bytes: (number | undefined)[] = []
    for await (const token of engine.generate(prompt(length, 1), { ...greedy, attention })) {
      ids.push(token.id)
      bytes.push(token.kvBytesRead)
    }
    return { ids, bytes }
  }
  const layerBytes = () => engine.facts.layers * engine.facts.blockLayerBytes

  it('over all pages says what dense attention says, and reads as much', async () => {
    const dense = await read({ method: 'dense' })
    expect(dense.ids).toEqual((await answer(prompt(200, 1))).ids)
    expect(await read({ method: 'page-bounds', budget: { share: 1 } })).toEqual(dense)
    expect(await read({ method: 'recent', budget: { tokens: 2_048 } })).toEqual(dense)
    // The prompt's 200 tokens are 13 pages with the first token of the answer, up to 208.
    expect(dense.bytes.slice(0, 2)).toEqual([undefined, 13 * layerBytes()])
    expect(dense.bytes.at(-1)).toBe(14 * layerBytes())
  })

  it.each([
    [{ tokens: 33 }, 3],
    [{ tokens: 1 }, 1],
    [{ share: 0.25 }, 4],
    [{ share: 1 / 13 }, 1],
  ])('with a budget of %j reads so many pages', async (budget, pages) => {
    for (const method of ['page-bounds', 'random', 'recent'] as const) {
      const { bytes } = await read({ method, budget })
      expect(bytes[1]).toBe(pages * layerBytes())
    }
  })

  it.each([{ tokens: 0 }, { tokens: 1.5 }, { share: 0 }, { share: 1.01 }, { share: Number.NaN }])(
    'refuses a budget of %j',
    async (budget) => {
      await expect(read({ method: 'recent', budget })).rejects.toMatchObject({ param: 'attention.budget' })
    },
  )
})

it.each([
  ['an empty prompt', [], greedy, 'prompt is empty'],
  ['a prompt as long as the context', prompt(2048, 1), greedy, 'no room in the context of 2048'],
  ['no tokens to give', prompt(3, 1), { ...greedy, maxTokens: 0 }, 'maxTokens'],
  ['a token outside the vocabulary', [9999], greedy, 'outside the vocabulary'],
])('refuses %s', async (_, tokens, options, message) => {
  await expect(answer(tokens, options)).rejects.toThrow(message)
})

it('goes on after a refused prompt', async () => {
  expect((await answer(prompt(3, 1))).ids).toHaveLength(12)
})

it('rejects answers that run when it is closed', async () => {
  const other = await createLocalGenerator({ model: 'dummy:llama-tiny' })
  const running = (async () => {
    for await (const _ of other.generate(prompt(5, 1), { ...greedy, maxTokens: 2000 })) void other.close()
  })()
  await expect(running).rejects.toMatchObject({ code: 'cancelled' })
})
