import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ArrivalModel, gapsMs } from './arrivals.js'
import { namesOfIds } from './block-names.js'
import { traceFacts } from './trace-file.js'
import { BEGIN_MS, requestsOf, type TraceWorkload } from './workload.js'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvasir-workload-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

const WISH = { seed: 1, blockTokens: 16, hasReuse: true }

function workload(changes: Partial<TraceWorkload> = {}): TraceWorkload {
  const file = join(folder, 'trace.csv')
  const rows = [0, 10, 20, 30, 40].map((ms) => `${1_000 + ms},100,4,7`)
  writeFileSync(file, `arrival_ms,prompt_tokens,output_tokens,blocks\n${rows.join('\n')}\n`)
  const source = { file, brokenRows: 'refuse' } as const
  const whole = { fromMs: 0, toMs: Number.POSITIVE_INFINITY, limit: Number.POSITIVE_INFINITY, speed: 1 }
  return { kind: 'trace', source, facts: traceFacts(source), ...whole, ...changes }
}

const arrivalsOf = (changes: Partial<TraceWorkload>) =>
  [...requestsOf(workload(changes), WISH)].map(({ arrivalMs }) => arrivalMs - BEGIN_MS)

describe('a trace as requests', () => {
  test('the window and the limit are of its own time, which is then compressed', () => {
    expect(arrivalsOf({})).toEqual([0, 10, 20, 30, 40])
    expect(arrivalsOf({ speed: 2 })).toEqual([0, 5, 10, 15, 20])
    expect(arrivalsOf({ fromMs: 10, toMs: 40, speed: 2 })).toEqual([0, 5, 10])
    expect(arrivalsOf({ limit: 2 })).toEqual([0, 10])
    expect(arrivalsOf({ arrivals: { name: 'constant', ratePerS: 100, variation: 1 } })).toEqual([
      0, 10, 20, 30, 40,
    ])
  })

  test('it is the same each time it is asked for', () => {
    const drawn = workload({ arrivals: { name: 'gamma', ratePerS: 3, variation: 2 } })
    expect([...requestsOf(drawn, WISH)]).toEqual([...requestsOf(drawn, WISH)])
  })

  test('without reuse no block has a name; a deadline is told where the trace has none', () => {
    const [request] = requestsOf(workload(), { ...WISH, hasReuse: false, ttftDeadlineMs: 9 })
    expect(request).toMatchObject({ blocks: [], ttftDeadlineMs: 9 })
  })
})

describe('blocks', () => {
  test('an id of 512 tokens becomes names of its parts, of full blocks of the prompt only', () => {
    expect(namesOfIds([3, 5], 512, 256, 800)).toEqual([6, 7, 10])
    expect(namesOfIds([3, 5], 512, 512, 800)).toEqual([3])
    expect(namesOfIds([3, 5, 6, 7], 16, 32, 64)).toEqual([5, 7])
    expect(() => namesOfIds([1], 512, 48, 512)).toThrow(/multiple of the other/)
  })

  test('two prompts have as many equal names at the beginning as they share full blocks', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 6 }), fc.constantFrom(16, 64, 512), (shared, blockTokens) => {
        const ids = (own: number) =>
          Array.from({ length: 8 }, (_, index) => (index < shared ? index : own + index))
        const [a, b] = [100, 200].map((own) => namesOfIds(ids(own), 512, blockTokens, 8 * 512))
        const equal = a?.findIndex((name, index) => name !== b?.[index])
        expect(equal).toBe((shared * 512) / blockTokens)
      }),
    )
  })
})

describe('arrivals', () => {
  const COUNT = 40_000
  const moments = (model: ArrivalModel) => {
    const gaps: number[] = []
    for (const gap of gapsMs(model, 7)) {
      if (gaps.length === COUNT) break
      gaps.push(gap)
    }
    const mean = gaps.reduce((sum, gap) => sum + gap, 0) / COUNT
    const variance = gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / COUNT
    return { mean, variation: Math.sqrt(variance) / mean }
  }

  test.each([
    ['poisson', 1, 1],
    ['gamma', 0.5, 0.5],
    ['gamma', 3, 3],
    ['constant', 1, 0],
  ] as const)(
    '%s with a variation of %d have the mean and the variation that were asked for',
    (name, variation, seen) => {
      const found = moments({ name, ratePerS: 20, variation })
      expect(Math.abs(found.mean / 50 - 1)).toBeLessThan(0.06)
      expect(Math.abs(found.variation - seen)).toBeLessThan(0.06 * Math.max(1, seen))
    },
  )
})
