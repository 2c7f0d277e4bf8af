/** Steps whose attention another device takes part in, on two drivers in this process. */
import { deferred } from '@kvasir/runtime/deferred'
import { DeadlineError } from '@kvasir/runtime/errors'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  BLOCK_TOKENS,
  type LoadedModelFacts,
  type RemoteAnswer,
  type RemoteAttention,
  type StepSequence,
} from './device-driver.js'
import { attendingDevice } from './testing/attending-device.js'
import { type LoadedDriver, loadedDriver } from './testing/loaded-driver.js'

const POOL_BLOCKS = 128
const PROMPT = 150
const PAGES = Math.floor(PROMPT / BLOCK_TOKENS) + 1
const range = (from: number, count: number) => Uint32Array.from({ length: count }, (_, i) => from + i)

let here: LoadedDriver
let there: LoadedDriver
let facts: LoadedModelFacts
/** Of the prompt; its last page is written to by each decode step. */
const blocks = range(0, PAGES)
const tokens = Array.from({ length: PROMPT + 1 }, (_, i) => (i * i * 31 + i * 17) % 500)

beforeAll(async () => {
  here = await loadedDriver('dummy:llama-tiny', POOL_BLOCKS, { threads: 1 })
  there = await loadedDriver('dummy:llama-tiny', POOL_BLOCKS, { threads: 1 })
  facts = here.facts
  const prompt = Uint32Array.from(tokens.slice(0, PROMPT))
  await here.step([{ blocks, start: 0, tokens: prompt, wantLogits: false }])
})
afterAll(async () => {
  await here.close()
  await there.close()
})

/** A decode step of the prompt, with a newest page of its own: block 20 + `place`. */
async function decode(place: number, changes: Partial<StepSequence> = {}): Promise<StepSequence> {
  const newest = Uint32Array.of(20 + place)
  await here.copyBlocks(blocks.slice(-1), newest)
  const whole = Uint32Array.of(...blocks.slice(0, -1), ...newest)
  const first = changes.remote?.mode === 'partial' ? changes.remote.pages : 0
  return {
    blocks: whole.slice(first),
    start: PROMPT,
    tokens: Uint32Array.of(tokens[PROMPT] ?? 0),
    wantLogits: true,
    ...changes,
  }
}

const remotely = (mode: RemoteAttention['mode'], pages: number) =>
  attendingDevice(here, blocks.slice(0, pages), there, range(60, pages).reverse(), facts, mode)
const bounds = (pages: number) => ({ attention: { method: 'page-bounds', pages, seed: 0 } as const })
const farthest = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] ?? Number.NaN))), 0)

describe('attention with another device', () => {
  it('over all pages gives the logits of dense attention here', async () => {
    const dense = await here.step([await decode(0)])
    for (const pages of [1, 4, PAGES - 1]) {
      const remote = await remotely('partial', pages)
      const partial = await here.step([await decode(1, { remote })])
      expect(farthest(partial.logits, dense.logits)).toBeLessThan(1e-4)
      expect(remote.queries.map(({ layer }) => layer)).toEqual([0, 1, 2])
      expect(remote.queries.every((query) => query.pages === 0 && query.rivals.length === 0)).toBe(true)
      for (const mode of ['partial', 'indices'] as const) {
        const full = { remote: await remotely(mode, pages), ...bounds(PAGES) }
        expect(farthest((await here.step([await decode(1, full)])).logits, dense.logits)).toBeLessThan(1e-4)
      }
    }
  })

  it('lets a sequence be longer than the pool of the device that decodes it', async () => {
    const length = 1_100
    const pages = Math.floor(length / BLOCK_TOKENS)
    const own = range(50, pages + 1)
    const text = Uint32Array.from({ length: length + 1 }, (_, i) => (i * i * 31 + i * 17) % 500)
    for (let start = 0; start < length; start += 500) {
      const part = text.slice(start, Math.min(length, start + 500))
      await here.step([{ blocks: own, start, tokens: part, wantLogits: false }])
    }
    const small = await loadedDriver('dummy:llama-tiny', 4, { threads: 1 })
    try {
      const remote = await attendingDevice(
        here,
        own.slice(0, pages),
        there,
        range(0, pages),
        facts,
        'partial',
      )
      for (let layer = 0; layer < facts.layers; layer++) {
        await small.writeBlocks(layer, range(3, 1), await here.readBlocks(layer, own.slice(pages)))
      }
      const last = { start: length, tokens: text.slice(length), wantLogits: true }
      const partial = await small.step([{ blocks: range(3, 1), ...last, remote }])
      const dense = await here.step([{ blocks: own, ...last }])
      expect(partial.failed).toEqual([])
      expect(farthest(partial.logits, dense.logits)).toBeLessThan(1e-4)
    } finally {
      await small.close()
    }
  })

  it('over chosen pages chooses those that would be chosen here', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: PAGES - 1 }),
        fc.integer({ min: 1, max: PAGES + 1 }),
        async (pages, budget) => {
          const sparse = { ...bounds(budget), trackPages: true }
          const local = await here.step([await decode(0, sparse)])
          const indices = await here.step([
            await decode(1, { ...sparse, remote: await remotely('indices', pages) }),
          ])
          // The same pages by the same graph: the same bits.
          expect(indices.logits).toEqual(local.logits)
          expect(indices.attention[0]?.reads).toEqual(local.attention[0]?.reads)
          const partial = await here.step([
            await decode(2, { ...sparse, remote: await remotely('partial', pages) }),
          ])
          expect(farthest(partial.logits, local.logits)).toBeLessThan(1e-4)
          expect(partial.attention[0]?.pagesRead).toBe(local.attention[0]?.pagesRead)
          expect(partial.attention[0]?.pages).toBe(local.attention[0]?.pages)
          const [mine, all] = [partial.attention[0], local.attention[0]]
          expect(
            farthest(mine?.reads ?? new Float32Array(0), (all?.reads ?? new Float32Array(0)).slice(pages)),
          ).toBe(0)
          expect(
            farthest(mine?.mass ?? new Float32Array(0), (all?.mass ?? new Float32Array(0)).slice(pages)),
          ).toBeLessThan(1e-4)
        },
      ),
      { numRuns: 15 },
    )
  })

  it('tells the time and bytes of it, and asks nobody for the newest page alone', async () => {
    const remote = await remotely('partial', 5)
    const { attention } = await here.step([await decode(1, { remote, trackPages: true, ...bounds(4) })])
    expect(attention[0]).toMatchObject({ wireBytes: 3_000, reads: { length: PAGES - 5 } })
    expect(attention[0]?.remoteUs).toBeGreaterThan(0)
    remote.queries.length = 0
    await here.step([await decode(1, { remote, ...bounds(1) })])
    expect(remote.queries).toEqual([])
  })

  it('asks for all sequences of a layer before it waits for one, and serves others meanwhile', async () => {
    const asked = deferred<void>()
    const [first, second] = [await remotely('partial', 3), await remotely('indices', 3)]
    const answered = deferred<void>()
    let open = 0
    const held = (remote: RemoteAttention): RemoteAttention => ({
      ...remote,
      async ask(query) {
        if (++open === 2) asked.resolve()
        await answered.promise
        return remote.ask(query)
      },
    })
    const batch = [
      await decode(1, { remote: held(first) }),
      await decode(2, { remote: held(second), ...bounds(3) }),
      await decode(3),
    ]
    const alone = await here.step([await decode(4)])
    const step = here.step(batch)
    await asked.promise
    const before = await here.readBlocks(0, blocks)
    await here.copyBlocks(blocks, range(40, PAGES))
    expect(await here.readBlocks(0, range(40, PAGES))).toEqual(before)
    const scores = await here.runKernel('page-scores', {
      layer: 1,
      q: new Float32Array(facts.heads * facts.headDim).fill(1),
      blocks,
    })
    expect(scores).toHaveLength(facts.kvHeads * PAGES)
    answered.resolve()
    const { logits, failed } = await step
    expect(failed).toEqual([])
    expect(logits.slice(2 * facts.vocabularySize)).toEqual(alone.logits)
  })

  it.each([
    ['rejects', () => Promise.reject(new DeadlineError('Gave up waiting for fpga-7.')), 'deadline'],
    ['answers for other heads', (answer) => ({ ...answer, chosen: Uint32Array.of(1) }), 'corrupt'],
    [
      'chooses more than there is',
      (answer) => ({ ...answer, chosen: answer.chosen.map(() => 9) }),
      'corrupt',
    ],
    ['has no partial attention', ({ partial: _, ...answer }) => answer, 'corrupt'],
    [
      'answers what is no number',
      (answer) => ({
        ...answer,
        partial: answer.partial && { ...answer.partial, output: answer.partial.output.map(() => Number.NaN) },
      }),
      'corrupt',
    ],
  ] as [string, (answer: RemoteAnswer) => RemoteAnswer | Promise<RemoteAnswer>, string][])(
    'fails alone where the other device %s',
    async (_, change, code) => {
      const remote = await remotely('partial', 4)
      let asks = 0
      const broken: RemoteAttention = {
        ...remote,
        async ask(query) {
          asks++
          const answer = await remote.ask(query)
          return query.layer === 1 ? change(answer) : answer
        },
      }
      const good = { remote, ...bounds(3) }
      const alone = [await here.step([await decode(1)]), await here.step([await decode(2, good)])]
      const { logits, failed, cancelled } = await here.step([
        await decode(1),
        await decode(3, { remote: broken }),
        await decode(2, good),
      ])
      expect(cancelled).toBe(false)
      expect(failed).toEqual([{ sequence: 1, error: expect.objectContaining({ code }) }])
      // Not asked again after it failed.
      expect(asks).toBe(2)
      const width = facts.vocabularySize
      expect(logits.slice(0, width)).toEqual(alone[0]?.logits)
      expect(logits.slice(2 * width)).toEqual(alone[1]?.logits)
    },
  )

  it('tells the error as its owner gave it', async () => {
    const error = new DeadlineError('Gave up waiting for fpga-7.', { ids: { deviceId: 'fpga-7' } })
    const remote: RemoteAttention = { pages: 4, mode: 'partial', ask: () => Promise.reject(error) }
    const { failed } = await here.step([await decode(1, { remote })])
    expect(failed[0]?.error).toBe(error)
  })

  it.each([
    ['page numbers out of range', (pages: Uint32Array) => pages.map(() => 4)],
    ['page numbers out of order', (pages: Uint32Array) => pages.toReversed()],
    ['too few page numbers', (pages: Uint32Array) => pages.slice(1)],
  ])('refuses an answer with %s', async (_, change) => {
    const remote = await remotely('indices', 4)
    const broken: RemoteAttention = {
      ...remote,
      ask: async (query) => {
        const answer = await remote.ask({ ...query, pages: PAGES - 1 })
        return { ...answer, pages: change(answer.pages ?? new Uint32Array(0)) }
      },
    }
    const { failed } = await here.step([await decode(1, { remote: broken, ...bounds(PAGES - 1) })])
    expect(failed).toMatchObject([{ sequence: 0, error: { code: 'corrupt' } }])
  })

  it('ends at once when the step is cancelled while it waits', async () => {
    const asked = deferred<void>()
    const never: RemoteAttention = {
      pages: 4,
      mode: 'partial',
      ask: () => {
        asked.resolve()
        return new Promise(() => {})
      },
    }
    const step = here.step([await decode(1, { remote: never })])
    await asked.promise
    here.cancelStep()
    expect(await step).toMatchObject({ cancelled: true, failed: [] })
    expect((await here.step([await decode(1)])).cancelled).toBe(false)
  })

  const remote: RemoteAttention = {
    pages: 2,
    mode: 'indices',
    ask: () => Promise.reject(new Error('nobody asks')),
  }
  it.each([
    ['several new tokens', { remote, tokens: Uint32Array.of(1, 2) }, 'one new token'],
    ['more pages than are full', { remote: { ...remote, pages: PAGES } }, 'full pages'],
    [
      'a method of one device',
      { remote, attention: { method: 'recent', pages: 2, seed: 0 } },
      'use page-bounds',
    ],
  ] as [string, Partial<StepSequence>, string][])('is refused for %s', async (_, changes, message) => {
    await expect(here.step([await decode(1, changes)])).rejects.toThrow(message)
  })
})
