import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { choiceMs, follows, type Pipeline, planStages, type Stage, type StageName } from './stage-plan.js'

const NAMES: readonly StageName[] = ['prepare', 'relevancy', 'retrieval', 'apply']

/**
 * The stage placement model published with He et al. (arXiv 2603.29002; the authors' code): microseconds
 * of each stage on GPU and FPGA, bytes between the stages, and PCIe rates by size.
 */
const PUBLISHED = {
  us: {
    prepare: { gpu: 250, fpga: 1108.6 },
    relevancy: { gpu: 82.5, fpga: 10.94 },
    retrieval: { gpu: 36.2, fpga: 10.12 },
    apply: { gpu: 7.6, fpga: 28.1 },
  },
  indexBytes: 4_194_304,
  queryBytes: 512,
  scoreBytes: 32_768,
  indicesBytes: 256,
}

/** Gigabytes a second for a transfer of so many KB; the curve begins at 1 KB. */
function publishedRate(from: string, bytes: number): number {
  const kb = Math.max(1, bytes / 1024)
  if (from === 'gpu') return kb <= 128 ? 0.0572 * kb + 0.147 : 4
  if (kb <= 128) return 0.0403 * kb + 0.264
  return kb <= 65_536 ? 3.57e-5 * kb + 4.135 : 6.09
}

function published(charged: 'result' | 'query' | 'index'): Pipeline {
  const { us, indexBytes, queryBytes, scoreBytes, indicesBytes } = PUBLISHED
  const outputs = { result: 0, query: queryBytes, index: indexBytes }
  const outputBytes = [outputs[charged], scoreBytes, indicesBytes, 0]
  return {
    stages: NAMES.map((name, at) => ({
      name,
      what: name,
      options: (['gpu', 'fpga'] as const).map((device) => ({
        devices: [device],
        computeMs: us[name][device] / 1000,
      })),
      inputs: [],
      outputBytes: outputBytes[at] ?? 0,
    })),
    // What attention gives is wanted by the GPU; its size is not published.
    resultAt: null,
    transferMs: (from, _to, bytes) => bytes / publishedRate(from, bytes) / 1e6,
  }
}

const onGpu = [0, 0, 0, 0]
const devicesOf = (pipeline: Pipeline): string[] =>
  planStages(pipeline).stages.map(({ devices }) => devices.join('+'))

describe('the published stage placement model', () => {
  test('index and query not charged, as in the authors’ code: relevancy and retrieval on the FPGA, 1.35 times', () => {
    const pipeline = published('result')
    const plan = planStages(pipeline)
    expect(devicesOf(pipeline)).toEqual(['gpu', 'fpga', 'fpga', 'gpu'])
    expect(plan.totalMs * 1000).toBeCloseTo(279.5, 1)
    expect(choiceMs(pipeline, onGpu) * 1000).toBeCloseTo(376.3, 1)
    expect(choiceMs(pipeline, onGpu) / plan.totalMs).toBeCloseTo(1.35, 2)
    expect(plan.stages.map(({ reason }) => reason)).toEqual([
      'With this stage on gpu all stages together are predicted to take 0.28 ms; with it on fpga, 1.14 ms.',
      'With this stage on fpga all stages together are predicted to take 0.28 ms; with it on gpu, 0.368 ms.',
      'With this stage on fpga all stages together are predicted to take 0.28 ms; with it on gpu, 0.326 ms.',
      'With this stage on gpu all stages together are predicted to take 0.28 ms; with it on fpga, 0.299 ms.',
    ])
    // Their scores would have to travel when only one of the two were there.
    expect(plan.stages[1]?.alternative?.pipelineMs).toBeGreaterThan(plan.totalMs)
  })

  test('the query charged: the same devices, 2.5 µs later', () => {
    const pipeline = published('query')
    expect(devicesOf(pipeline)).toEqual(['gpu', 'fpga', 'fpga', 'gpu'])
    expect(planStages(pipeline).totalMs * 1000).toBeCloseTo(282.0, 1)
  })

  test('the upload of the index charged: 1,049 µs outweigh it; only top-k is worth its trip', () => {
    const pipeline = published('index')
    expect(devicesOf(pipeline)).toEqual(['gpu', 'gpu', 'fpga', 'gpu'])
    expect(choiceMs(pipeline, [0, 1, 1, 0]) * 1000).toBeCloseTo(279.5 + 1048.6, 1)
    expect(planStages(pipeline).totalMs * 1000).toBeCloseTo(367.6, 1)
  })
})

const DEVICES = ['a', 'b', 'c']
const anyMs = fc.double({ min: 0, max: 10, noNaN: true })
const anyStage = fc.record({
  options: fc.array(
    fc.record({
      devices: fc.uniqueArray(fc.constantFrom(...DEVICES), { minLength: 1, maxLength: 3 }),
      computeMs: anyMs,
    }),
    { minLength: 1, maxLength: 4 },
  ),
  inputs: fc.array(
    fc.record({ device: fc.constantFrom(...DEVICES), bytes: fc.nat(1_000), isBulk: fc.boolean() }),
    {
      maxLength: 2,
    },
  ),
  outputBytes: fc.nat(1_000),
  isJoined: fc.boolean(),
  isPicky: fc.boolean(),
})
const anyPipeline: fc.Arbitrary<Pipeline> = fc
  .record({
    stages: fc.array(anyStage, { minLength: 1, maxLength: 4 }),
    resultAt: fc.option(fc.constantFrom(...DEVICES)),
    latencyMs: fc.array(anyMs, { minLength: 9, maxLength: 9 }),
    msPerByte: fc.double({ min: 0, max: 0.01, noNaN: true }),
  })
  .map(({ stages, resultAt, latencyMs, msPerByte }) => ({
    stages: stages.map((stage, at): Stage => {
      const before = stages[at - 1]
      const isJoined = stage.isJoined && before?.options.length === stage.options.length
      return {
        ...stage,
        name: NAMES[at] ?? 'apply',
        what: `stage ${at}`,
        // A joined stage has the devices of the one that it joins.
        options: stage.options.map((option, index) => ({
          ...option,
          devices: (isJoined && before.options[index]?.devices) || option.devices,
        })),
        isJoined,
        // Whatever came before, the first option is left.
        canFollow: (from, to) => !stage.isPicky || isJoined || to === 0 || from % 2 === 1,
      }
    }),
    resultAt,
    transferMs: (from: string, to: string, bytes: number, isBulk: boolean) => {
      const index = DEVICES.indexOf(from) * 3 + DEVICES.indexOf(to)
      return (isBulk ? 0 : (latencyMs[index] ?? 0)) + bytes * msPerByte
    },
  }))

function allChoices({ stages }: Pipeline): number[][] {
  return stages.reduce<number[][]>(
    (choices, stage, at) =>
      choices.flatMap((choice) =>
        stage.options
          .map((_option, index) => [...choice, index])
          .filter((longer) => at === 0 || follows(stage, longer[at - 1] ?? 0, longer[at] ?? 0)),
      ),
    [[]],
  )
}

describe('any pipeline', () => {
  test('gets the devices that an exhaustive search finds, and the true second best', () => {
    fc.assert(
      fc.property(anyPipeline, (pipeline) => {
        const times = allChoices(pipeline)
          .map((choice) => choiceMs(pipeline, choice))
          .sort((a, b) => a - b)
        const plan = planStages(pipeline)
        expect(plan.totalMs).toBeCloseTo(times[0] ?? Number.NaN, 9)
        if (times[1] === undefined) expect(plan.runnerUp).toBeNull()
        else expect(plan.runnerUp?.totalMs).toBeCloseTo(times[1], 9)
      }),
      { numRuns: 500 },
    )
  })

  test('names for each stage the best plan that runs it elsewhere', () => {
    fc.assert(
      fc.property(anyPipeline, (pipeline) => {
        const plan = planStages(pipeline)
        plan.stages.forEach(({ alternative, devices }, at) => {
          const ofStage = pipeline.stages[at]?.options.findIndex((option) => option.devices === devices) ?? -1
          const others = allChoices(pipeline).filter((choice) => choice[at] !== ofStage)
          const times = others.map((choice) => choiceMs(pipeline, choice))
          if (times.length === 0) expect(alternative).toBeNull()
          else expect(alternative?.pipelineMs).toBeCloseTo(Math.min(...times), 9)
        })
      }),
    )
  })

  test('counts what is computed and what is moved once', () => {
    fc.assert(
      fc.property(anyPipeline, (pipeline) => {
        const plan = planStages(pipeline)
        const sumMs = plan.stages.reduce((sum, stage) => sum + stage.computeMs + stage.transferMs, 0)
        expect(plan.totalMs).toBeCloseTo(sumMs, 9)
      }),
    )
  })

  test('is refused where no device can run a stage', () => {
    const stage = { name: 'apply', what: 'attention', options: [], inputs: [], outputBytes: 0 } as const
    expect(() => planStages({ stages: [stage], resultAt: null, transferMs: () => 0 })).toThrow(
      'No device can run the stage "attention".',
    )
  })
})
