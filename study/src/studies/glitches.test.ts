import { builtinCatalogue } from '@kvasir/catalogue/load-catalogue'
import { describe, expect, it } from 'vitest'
import type { StudyContext } from '../study.js'
import { studyGlitches } from './glitches.js'
import { homogeneousTokensPerS, mixedTokensPerS, type Workload } from './glitches-closed-form.js'
import { GPU_IDS, PAPER_THROUGHPUT } from './glitches-paper.js'
import { type GlitchesMeasure, type GlitchesPoint, point, steadyTokensPerS } from './glitches-point.js'
import { inferredOfTwo } from './glitches-prefetch.js'
import { fpgaModel, gpuModel } from './glitches-systems.js'

const catalogue = builtinCatalogue()
const options = { requests: 32, seed: 1, catalogue: [], out: '' }

function closedForm({ system, options, workload, decodeAssist }: GlitchesPoint): number {
  const [gpu, fpga] = [gpuModel(catalogue, options), fpgaModel(catalogue, options)]
  if (system === 'mixed') return mixedTokensPerS(gpu, fpga, workload, decodeAssist)
  return homogeneousTokensPerS(system === 'gpu-only' ? gpu : fpga, workload)
}

/** Points that take the closed form for what was replayed, but for the first `skipped`, which a stop left out. */
function context(skipped = 0): StudyContext {
  const measure = (input: GlitchesPoint): GlitchesMeasure => ({
    tokensPerS: closedForm(input),
    energyPerTokenJ: 1,
    gpuDecodedShare: 0,
    prefillMs: 100,
    exposedMs: input.options.mergeLayers,
    overlap: 0.9,
  })
  return {
    signal: new AbortController().signal,
    say: () => {},
    progress: () => {},
    points: <Input, Result>(_module: URL, inputs: readonly Input[]) => {
      const results = inputs.map((input, index) => (index < skipped ? undefined : measure(asPoint(input))))
      return Promise.resolve(results as readonly (Result | undefined)[])
    },
  }
}

function asPoint(input: unknown): GlitchesPoint {
  return input as GlitchesPoint
}

describe('the figures', () => {
  it("are within 5 % of the paper's with the two fitted constants, and over FPGAs without them too", async () => {
    const { figures } = await studyGlitches(options, context())
    const unfitted = figures.unfitted as Readonly<Record<string, number>>
    for (const gpu of GPU_IDS) {
      const name = gpu === 'v100s' ? 'v100s' : 'a100'
      const within5Percent = (got: unknown, published: number) =>
        expect(Math.abs(Number(got) / published - 1), `${name} ${got}`).toBeLessThan(0.05)
      within5Percent(figures[`${name}OverGpu`], PAPER_THROUGHPUT[gpu].overGpu)
      within5Percent(figures[`${name}OverFpga`], PAPER_THROUGHPUT[gpu].overFpga)
      within5Percent(unfitted[`${name}OverFpga`], PAPER_THROUGHPUT[gpu].overFpga)
    }
    expect(unfitted.v100sOverGpu).toBeGreaterThan(1.5)
  })

  it("of cost efficiency are the throughput's times the ratio of prices", async () => {
    const { figures } = await studyGlitches(options, context())
    const cost = figures.costEfficiency as Readonly<Record<string, number>>
    expect(Number(cost.v100sOverGpu) / Number(figures.v100sOverGpu)).toBeCloseTo(96_000 / 68_000)
    expect(Number(cost.a100OverFpga) / Number(figures.a100OverFpga)).toBeCloseTo(64_000 / 73_000)
  })

  it('name what was fitted, and have a row for each point', async () => {
    const { assumptions, rows, tables, plots, pointsSkipped } = await studyGlitches(options, context())
    expect(assumptions.filter((text) => text.startsWith('Fitted constant'))).toHaveLength(2)
    expect(rows).toHaveLength(14 * 16 + 2 * 4 * 4)
    expect(
      tables.every(({ columns, rows }) => rows.every((row) => columns.every(({ key }) => key in row))),
    ).toBe(true)
    expect(plots.length).toBeGreaterThan(5)
    expect(pointsSkipped).toBe(0)
  })

  it('of a stopped study leave out what was not computed', async () => {
    const all = 14 * 16 + 2 * 4 * 4
    const { figures, pointsSkipped, rows } = await studyGlitches(options, context(all - 5))
    expect(pointsSkipped).toBe(all - 5)
    expect(rows).toHaveLength(5)
    expect(figures).not.toHaveProperty('v100sOverGpu')
  })
})

describe('the replay through both cores', () => {
  const base = { seed: 1, catalogueFiles: [], decodeAssist: true, requests: 48, everyMs: 0 } as const
  const system = { gpu: 'v100s', fitted: true, mergedLoads: 4, mergeLayers: 1 } as const
  const short: Workload = { inputTokens: 128, outputTokens: 128 }
  const long: Workload = { inputTokens: 1024, outputTokens: 128 }

  it.each([
    ['8 GPUs', { ...base, system: 'gpu-only', options: system, workload: short }],
    ['8 FPGAs', { ...base, system: 'fpga-only', options: system, workload: long }],
    ['both', { ...base, system: 'mixed', options: system, workload: short }],
    [
      'both, the GPU busy with prompts',
      { ...base, system: 'mixed', options: system, workload: long, requests: 240 },
    ],
    [
      'both, the GPU only prefilling',
      { ...base, system: 'mixed', options: system, workload: short, decodeAssist: false },
    ],
  ] as const)('agrees with the closed form within 2 %%: %s', (_what, input) => {
    const measured = point(input)
    expect(Math.abs(measured.tokensPerS / closedForm(input) - 1)).toBeLessThan(0.02)
    expect(measured.energyPerTokenJ).toBeGreaterThan(0.1)
    if (input.system === 'mixed') expect(measured.gpuDecodedShare > 0).toBe(input.decodeAssist)
  })

  it('leaves of a transfer what the last group of layers takes', () => {
    const exposedMs = (mergeLayers: number) =>
      point({
        ...{ ...base, system: 'mixed', requests: 2, everyMs: 60_000 },
        options: { ...system, mergeLayers },
        workload: { inputTokens: 1024, outputTokens: 16 },
      }).exposedMs
    const layerMs = (1024 * 262_144 * 1e3) / 32 / 6.05e9
    expect(exposedMs(1)).toBeCloseTo(layerMs, 0)
    expect(exposedMs(8)).toBeCloseTo(8 * layerMs, 0)
  })

  it('gives the same measure again', () => {
    const input = { ...base, system: 'mixed', options: system, workload: short } as const
    expect(point(input)).toEqual(point(input))
  })
})

it('the throughput is that of the time in which no device waits', () => {
  const request = { requestId: 'r', arrivalMs: 0, promptTokens: 1, outputTokens: 100, blocks: [] }
  const outcome = (firstTokenMs: number) => ({
    ...({
      request,
      end: 'finished',
      code: '',
      firstTokenMs,
      endMs: firstTokenMs + 1000,
      tokens: 100,
    } as const),
    ...{ prefillDevice: 'g', decodeDevice: 'f', placements: 1, cachedTokens: 0, fetchedTokens: 0 },
    ...{ predictedTtftMs: 0, predictedTpotMs: 0, prefillMs: 0, exposedMs: 0, kvBytes: 0 },
  })
  // One after the other: 100 tokens a second.
  const outcomes = Array.from({ length: 20 }, (_, index) => outcome(index * 1000))
  expect(steadyTokensPerS(outcomes)).toBeCloseTo(100)
})

it('two merged loads are inferred between none and four', () => {
  expect(inferredOfTwo(1.2)).toBeCloseTo(1.125)
  expect(inferredOfTwo(1)).toBe(1)
})

it('refuses so few requests that a device could not show what it gives', async () => {
  await expect(studyGlitches({ ...options, requests: 31 }, context())).rejects.toThrow(
    '--requests 31 are too few to measure eight devices at work: take 32 or more.',
  )
})
