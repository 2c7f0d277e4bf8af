/** One device decodes, another attends for it: the same text, and nobody else's trouble when it is lost. */

import { writeTestModel } from '@kvasir/engine/testing/test-model'
import type { Tokens } from '@kvasir/proto/kvasir/inference/v1/inference'
import {
  type Attention,
  AttentionMethod,
  type DecodeResponse,
} from '@kvasir/proto/kvasir/inference/v1/inference'
import { AttendMode } from '@kvasir/proto/kvasir/memory/v1/memory'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { AttendingDevice } from './testing/attending-devices.js'
import { promptOf, readPrefill } from './testing/test-devices.js'

let decoder: AttendingDevice
let attendant: AttendingDevice

beforeAll(async () => {
  const model = writeTestModel()
  decoder = await AttendingDevice.start('gpu-0', model)
  attendant = await AttendingDevice.start('fpga-0', model)
})
afterEach(() => Promise.all([decoder.empty(), attendant.empty()]))
afterAll(() => Promise.all([decoder.stop(), attendant.stop()]))

const { PARTIAL, INDICES } = AttendMode
const MODES = [PARTIAL, INDICES] as const

const share = (budgetShare: number): Attention => ({
  method: AttentionMethod.PAGE_BOUNDS,
  budgetTokens: 0,
  budgetShare,
})

type Finished = Extract<NonNullable<DecodeResponse['event']>, { $case: 'finished' }>['value']

interface Story {
  readonly tokens: Tokens['tokens'][number][]
  readonly finished: Finished | undefined
}

async function read(stream: AsyncIterable<DecodeResponse>): Promise<Story> {
  const tokens: Story['tokens'] = []
  let finished: Finished | undefined
  for await (const { event } of stream) {
    if (event?.$case === 'tokens') tokens.push(...event.value.tokens)
    if (event?.$case === 'finished') finished = event.value
  }
  return { tokens, finished }
}

let requests = 0
const nextId = () => `request-${++requests}`

async function alone(prompt: readonly number[], maxTokens: number, attention?: Attention): Promise<Story> {
  const options = { maxTokens, ...(attention === undefined ? {} : { attention }) }
  return read(await decoder.generate(nextId(), prompt, options))
}

async function together(
  prompt: readonly number[],
  maxTokens: number,
  mode: AttendMode,
  attention?: Attention,
): Promise<Story> {
  const id = nextId()
  const offload = await attendant.offload(id, prompt, mode)
  const options = { maxTokens, offload, ...(attention === undefined ? {} : { attention }) }
  return read(await decoder.generate(id, prompt, options))
}

/** The same text, and log probabilities within 1e-4, up to where a near tie may have been decided otherwise. */
function expectSame(story: Story, reference: Story): void {
  const tie = reference.tokens.findIndex(({ nearTie }) => nearTie)
  const until = tie < 0 ? reference.tokens.length : tie
  expect(until).toBeGreaterThan(5)
  expect(story.tokens).toHaveLength(reference.tokens.length)
  for (const [i, { id, logprob, top }] of reference.tokens.slice(0, until).entries()) {
    const own = story.tokens[i]
    expect(own?.id).toBe(id)
    expect(Math.abs((own?.logprob ?? 0) - logprob)).toBeLessThan(1e-4)
    for (const [place, alternative] of top.entries()) {
      const ownTop = own?.top.find((other) => other.id === alternative.id)
      // The last place may change hands.
      if (ownTop === undefined) expect(place).toBeGreaterThan(17)
      else expect(Math.abs(ownTop.logprob - alternative.logprob)).toBeLessThan(1e-4)
    }
  }
}

describe.each(MODES)('with the other device in %s', (mode) => {
  it.each([
    ['dense', undefined],
    ['a budget of all pages', share(1)],
  ] as const)('%s gives the text of one device', async (_what, attention) => {
    const prompt = promptOf(213, 3)
    const reference = await alone(prompt, 40)
    const story = await together(prompt, 40, mode, attention)
    expectSame(story, reference)
    expect(story.finished).toMatchObject({ reason: 'FINISH_REASON_LENGTH', steps: 39 })
    const figures = story.finished?.attention
    expect(figures?.calls).toBe(39n * 2n)
    expect(figures?.pagesRead).toBe(figures?.pages)
  })

  it.each([0.25, 0.5])('a budget of %d gives the text of one device with that budget', async (budget) => {
    const prompt = promptOf(400, 5)
    const reference = await alone(prompt, 40, share(budget))
    const story = await together(prompt, 40, mode, share(budget))
    expectSame(story, reference)
    const figures = story.finished?.attention
    const own = reference.finished?.attention
    expect(figures?.pages).toBe(own?.pages)
    expect(figures?.pagesRead).toBe(own?.pagesRead)
    const read = Number(figures?.pagesRead) / Number(figures?.pages)
    expect(read).toBeGreaterThan(budget * 0.9)
    expect(read).toBeLessThan(budget * 1.2)
    expect(Number(figures?.remoteUs)).toBeGreaterThan(0)
    expect(Number(figures?.wireBytes)).toBeGreaterThan(39 * 2 * 512)
    expect(own?.wireBytes).toBe(0n)
  })

  it('a budget of the newest page alone asks nobody', async () => {
    const attention = { method: AttentionMethod.PAGE_BOUNDS, budgetTokens: 16, budgetShare: 0 }
    const prompt = promptOf(100, 6)
    const story = await together(prompt, 30, mode, attention)
    expectSame(story, await alone(prompt, 30, attention))
    expect(story.finished?.attention?.wireBytes).toBe(0n)
  })

  it.each([16, 17, 31, 32, 160])('a prompt of %d tokens is cut where its pages end', async (length) => {
    const prompt = promptOf(length, 7)
    expectSame(await together(prompt, 20, mode), await alone(prompt, 20))
  })

  it('a third device may prefill, or the attending one itself', async () => {
    const prompt = promptOf(170, 9)
    const reference = await alone(prompt, 20)
    const id = nextId()
    const offload = await attendant.offload(id, prompt, mode)
    const prefill = readPrefill(attendant.prefill(id, prompt))
    const { id: deviceId, endpoint } = attendant.source
    const source = {
      deviceId,
      endpoint,
      transferId: `transfer-${id}`,
      timing: 'PULL_TIMING_LAYERED',
    } as const
    const story = await read(
      await decoder.generate(id, prompt, { maxTokens: 20, offload, request: { source } }),
    )
    await prefill
    // The device that prefills samples the first token.
    expectSame(story, { ...reference, tokens: reference.tokens.slice(1) })
    expect(story.finished?.attention?.calls).toBe(19n * 2n)
  })

  it('many at once have their own text', async () => {
    const prompts = [60, 130, 200, 90].map((length, i) => promptOf(length, 20 + i))
    const references = await Promise.all(prompts.map((prompt) => alone(prompt, 24)))
    const stories = await Promise.all(prompts.map((prompt) => together(prompt, 24, mode)))
    stories.forEach((story, i) => {
      expectSame(story, references[i] ?? story)
    })
  })

  it('a single token, sampled before anybody is asked, is the whole answer', async () => {
    const prompt = promptOf(50, 8)
    const story = await together(prompt, 1, mode)
    expect(story.tokens).toHaveLength(1)
    expect(story.finished?.reason).toBe('FINISH_REASON_LENGTH')
  })
})

describe('what was generated', () => {
  /** How many of the full blocks of a prompt and its answer the decoding device keeps for others. */
  async function keptBlocks(prompt: number[], { tokens }: Story): Promise<number> {
    const answer = tokens.map(({ id }) => id)
    const hashes = decoder.hashes([...prompt, ...answer])
    const held = new Set(decoder.serving.device.index.snapshot().parts.flatMap(({ hashes }) => hashes))
    return hashes.filter((hash) => held.has(hash)).length
  }

  it('is reused where its attention was dense and all here', async () => {
    const prompt = promptOf(100, 31)
    expect(await keptBlocks(prompt, await alone(prompt, 40))).toBe(8)
  })

  it('is not where it attended to some pages only, which changes its KV', async () => {
    const prompt = promptOf(100, 32)
    expect(await keptBlocks(prompt, await alone(prompt, 40, share(0.25)))).toBe(6)
  })

  it('is not where another device attended, which changes the last bits of its KV', async () => {
    const prompt = promptOf(100, 33)
    expect(await keptBlocks(prompt, await together(prompt, 40, PARTIAL))).toBe(6)
  })
})
