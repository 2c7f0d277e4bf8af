/** The GLITCHES study as tables, plots and figures. */
import { type DeviceModel, deviceTimes } from '@kvasir/catalogue/device-times'
import type { Catalogue } from '@kvasir/catalogue/specs'
import { decimals, finite } from '../rounding.js'
import { mean } from '../statistics.js'
import type { Cell, Figures, StudyPlot, StudyResult, StudyTable } from '../study.js'
import type { Workload } from './glitches-closed-form.js'
import {
  asPublished,
  Comparison,
  closed,
  type Rate,
  type Run,
  replayed,
  type TransferRun,
  vllmClassRatios,
} from './glitches-compare.js'
import {
  FIT_TOKENS,
  FITTED_DECODE_MS,
  GPU_IDS,
  GPU_NAMES,
  type GpuId,
  PAPER_COST_EFFICIENCY,
  PAPER_THROUGHPUT,
  type Ratios,
} from './glitches-paper.js'
import { prefetchTable } from './glitches-prefetch.js'
import { gpuModel, systemDollars } from './glitches-systems.js'
import { transferPlots, transferTable } from './glitches-transfer.js'

export interface GlitchesRuns {
  readonly catalogue: Catalogue
  readonly workloads: readonly Workload[]
  readonly runs: readonly Run[]
  readonly transfers: readonly TransferRun[]
  readonly pointsSkipped: number
}

const AGAINST = [
  { key: 'overGpu', name: '8 GPUs', figure: 'OverGpu' },
  { key: 'overFpga', name: '8 U280', figure: 'OverFpga' },
] as const

const FIGURE_NAMES: Readonly<Record<GpuId, string>> = { v100s: 'v100s', 'a100-80-pcie': 'a100' }

export function glitchesResult(all: GlitchesRuns): StudyResult {
  const { catalogue, workloads, runs, transfers, pointsSkipped } = all
  const comparison = new Comparison(runs, workloads)
  const ratios =
    (rate: Rate, change: object = {}) =>
    (gpu: GpuId) =>
      comparison.ratios({ ...asPublished(gpu), ...change }, rate)
  const fitted = ratios(replayed)
  const unfitted = ratios(replayed, { fitted: false })
  const cost = (gpu: GpuId) => costEfficiency(catalogue, gpu, fitted(gpu))
  const vllm = (gpu: GpuId) => vllmClassRatios(catalogue, gpu, workloads)

  const figures: Figures = {
    ...fourOf(fitted),
    unfitted: fourOf(unfitted),
    closedForm: fourOf(ratios(closed)),
    closedFormUnfitted: fourOf(ratios(closed, { fitted: false })),
    costEfficiency: fourOf(cost),
    withoutDecodeAssist: fourOf((gpu) => assistOff(comparison, gpu)),
    withoutPrefetch: fourOf(ratios(replayed, { mergedLoads: 1 })),
    vllmClassClosedForm: fourOf(vllm),
    closedFormDifferenceMax: comparison.differenceMax,
  }
  const tables = [
    ratioTable('Throughput of 1 GPU and 7 U280 against 8 of a kind', PAPER_THROUGHPUT, {
      fitted,
      closedForm: ratios(closed),
      unfitted,
    }),
    ratioTable('Cost efficiency: throughput a dollar of cards', PAPER_COST_EFFICIENCY, {
      fitted: cost,
      closedForm: (gpu) => costEfficiency(catalogue, gpu, ratios(closed)(gpu)),
      unfitted: (gpu) => costEfficiency(catalogue, gpu, unfitted(gpu)),
    }),
    ...GPU_IDS.map((gpu) => workloadTable(comparison, gpu)),
    assistTable(comparison),
    transferTable(transfers, comparison),
    prefetchTable(comparison),
    baselineTable(fitted, vllm),
  ]
  return {
    title: 'GLITCHES: a GPU that prefills for seven FPGAs, against eight of a kind, with Llama-2-7B',
    findings: findingsOf(comparison, fitted, unfitted, vllm),
    figures,
    rows: [...runs.map(runRow), ...transfers.map(transferRow)],
    tables,
    plots: [
      ratioPlot(fitted, unfitted),
      ...GPU_IDS.map((gpu) => workloadPlot(comparison, gpu)),
      assistPlot(comparison),
      ...transferPlots(transfers, comparison),
    ],
    assumptions: assumptionsOf(catalogue),
    pointsSkipped,
  }
}

function assumptionsOf(catalogue: Catalogue): string[] {
  const fittedConstant = (gpu: GpuId, index: number) => {
    const tableMs = decodeMs(gpuModel(catalogue, { gpu, fitted: false, mergedLoads: 4, mergeLayers: 1 }))
    return `Fitted constant ${index + 1}: decoding of a token on the ${GPU_NAMES[gpu]} takes ${FITTED_DECODE_MS[gpu]} ms at ${FIT_TOKENS} tokens (by the table ${tableMs.toFixed(1)} ms). Figures of the ${GPU_NAMES[gpu]} against GPUs rest on it; "unfitted" does without.`
  }
  return [
    "All times are modelled: a roofline with the utilisations of the table in GLITCHES (HPEC'24); nothing was measured on a GPU or an FPGA.",
    ...GPU_IDS.map(fittedConstant),
    'Published: FPGAs decode 1.20 times as fast at length 128 and 1.16 times at 1,024 with four loads merged. Inferred: that it grows linearly in between, stays beyond, and holds in both systems with FPGAs.',
    'Inferred: a byte of KV crosses PCIe 3.0 x16 twice, one after the other, since it lies in host memory in between (6.05 GB/s); KV is 262,144 bytes a token, scales left out.',
    'Load: all requests are there from the beginning, all of one length; throughput is that after the first fifth of them has begun and before the last has.',
    'A request is prefilled whole. An FPGA of the mixed system has a second slot, so that the next KV arrives while one sequence decodes; every device decodes one sequence at a time.',
    'The closed form counts as many decode steps as tokens; in the replay the first token comes from prefill.',
  ]
}

function decodeMs(model: DeviceModel): number {
  return deviceTimes(model).stepMs({ prefills: [], decodes: [FIT_TOKENS] })
}

function findingsOf(
  comparison: Comparison,
  fitted: (gpu: GpuId) => Ratios,
  unfitted: (gpu: GpuId) => Ratios,
  vllm: (gpu: GpuId) => Ratios,
): string[] {
  const of = (gpu: GpuId, { overGpu, overFpga }: Ratios) =>
    `${overGpu.toFixed(2)} times eight ${GPU_NAMES[gpu]} and ${overFpga.toFixed(2)} times eight U280`
  const paper = (gpu: GpuId) =>
    `${PAPER_THROUGHPUT[gpu].overGpu.toFixed(2)} and ${PAPER_THROUGHPUT[gpu].overFpga.toFixed(2)}`
  const percent = (comparison.differenceMax * 100).toFixed(1)
  return [
    ...GPU_IDS.map(
      (gpu) =>
        `Throughput of one GPU and seven U280, with the fitted constants: ${of(gpu, fitted(gpu))}; the paper says ${paper(gpu)}.`,
    ),
    `Without them: ${GPU_IDS.map((gpu) => of(gpu, unfitted(gpu))).join('; ')}. What is gained over FPGAs follows from the paper's table alone, what is gained over GPUs does not.`,
    `Replay and closed form are at most ${percent} % apart in any workload.`,
    `Against GPUs that read weights as fast as vLLM does, still one sequence at a time, it is (closed form) ${GPU_IDS.map((gpu) => of(gpu, vllm(gpu))).join('; ')}.`,
  ]
}

function fourOf(ratios: (gpu: GpuId) => Ratios): Record<string, number> {
  const four: Record<string, number> = {}
  for (const gpu of GPU_IDS) {
    const both = ratios(gpu)
    for (const { key, figure } of AGAINST) {
      // A stopped study has no mean where it has no points.
      if (Number.isFinite(both[key])) four[`${FIGURE_NAMES[gpu]}${figure}`] = both[key]
    }
  }
  return four
}

function costEfficiency(catalogue: Catalogue, gpu: GpuId, ratios: Ratios): Ratios {
  const dollars = systemDollars(catalogue, 'mixed', gpu)
  return {
    overGpu: ratios.overGpu * (systemDollars(catalogue, 'gpu-only', gpu) / dollars),
    overFpga: ratios.overFpga * (systemDollars(catalogue, 'fpga-only', gpu) / dollars),
  }
}

function assistOff(comparison: Comparison, gpu: GpuId): Ratios {
  return comparison.ratios({ ...asPublished(gpu), decodeAssist: false }, replayed)
}

function ratioTable(
  title: string,
  paper: Readonly<Record<GpuId, Ratios>>,
  ours: Readonly<Record<'fitted' | 'closedForm' | 'unfitted', (gpu: GpuId) => Ratios>>,
): StudyTable {
  return {
    title,
    columns: [
      { key: 'gpu', label: 'GPU' },
      { key: 'against', label: 'against' },
      { key: 'paper', label: 'paper', unit: '×' },
      { key: 'ours', label: 'replayed', unit: '×' },
      { key: 'difference', label: 'difference', unit: '%' },
      { key: 'closedForm', label: 'closed form', unit: '×' },
      { key: 'unfitted', label: 'replayed, nothing fitted', unit: '×' },
      { key: 'restsOn', label: 'rests on' },
    ],
    rows: GPU_IDS.flatMap((gpu) =>
      AGAINST.map(({ key, name }) => {
        const published = paper[gpu][key]
        const replay = ours.fitted(gpu)[key]
        return {
          gpu: GPU_NAMES[gpu],
          against: name,
          paper: published,
          ours: decimals(replay, 3),
          difference: decimals((replay / published - 1) * 100, 1),
          closedForm: decimals(ours.closedForm(gpu)[key], 3),
          unfitted: decimals(ours.unfitted(gpu)[key], 3),
          restsOn:
            key === 'overGpu'
              ? 'table, prefetch, fitted constant'
              : 'table and prefetch; hardly on the constant',
        }
      }),
    ),
    note: 'Geometric means over all workloads. Modelled times.',
  }
}

function workloadTable(comparison: Comparison, gpu: GpuId): StudyTable {
  const systems = ['mixed', 'gpu-only', 'fpga-only'] as const
  return {
    title: `Throughput by workload, ${GPU_NAMES[gpu]}, fitted`,
    columns: [
      { key: 'workload', label: '[in, out]' },
      { key: 'mixed', label: '1 GPU + 7 U280', unit: 'token/s' },
      { key: 'gpu-only', label: '8 GPUs', unit: 'token/s' },
      { key: 'fpga-only', label: '8 U280', unit: 'token/s' },
      { key: 'overGpu', label: 'over GPUs', unit: '×' },
      { key: 'overFpga', label: 'over FPGAs', unit: '×' },
      { key: 'closedForm', label: 'closed form of the mixed', unit: 'token/s' },
      { key: 'difference', label: 'replay against it', unit: '%' },
      { key: 'energyJ', label: 'energy, mixed', unit: 'J/token' },
    ],
    rows: comparison.workloads.map((workload) => {
      const [mixed, gpus, fpgas] = systems.map((system) => comparison.run(system, asPublished(gpu), workload))
      const rate = (run: Run | undefined) => run?.measure.tokensPerS ?? Number.NaN
      return {
        workload: workloadText(workload),
        mixed: decimals(rate(mixed), 1),
        'gpu-only': decimals(rate(gpus), 1),
        'fpga-only': decimals(rate(fpgas), 1),
        overGpu: decimals(rate(mixed) / rate(gpus), 3),
        overFpga: decimals(rate(mixed) / rate(fpgas), 3),
        closedForm: decimals(mixed?.closedTokensPerS ?? Number.NaN, 1),
        difference: decimals((rate(mixed) / (mixed?.closedTokensPerS ?? Number.NaN) - 1) * 100, 2),
        energyJ: decimals(mixed?.measure.energyPerTokenJ ?? Number.NaN, 2),
      }
    }),
  }
}

function assistTable(comparison: Comparison): StudyTable {
  return {
    title: 'GPU decode assistance: the GPU decodes too while every FPGA is busy',
    columns: [
      { key: 'gpu', label: 'GPU' },
      { key: 'assist', label: 'assistance' },
      { key: 'tokensPerS', label: 'mixed', unit: 'token/s' },
      { key: 'overGpu', label: 'over GPUs', unit: '×' },
      { key: 'overFpga', label: 'over FPGAs', unit: '×' },
      { key: 'share', label: 'decoded by the GPU', unit: '% of requests' },
    ],
    rows: GPU_IDS.flatMap((gpu) =>
      [true, false].map((decodeAssist) => {
        const conditions = { ...asPublished(gpu), decodeAssist }
        const { overGpu, overFpga } = comparison.ratios(conditions, replayed)
        const shares = comparison.workloads.flatMap((workload) => {
          const run = comparison.run('mixed', conditions, workload)
          return run ? [run.measure.gpuDecodedShare] : []
        })
        return {
          gpu: GPU_NAMES[gpu],
          assist: decodeAssist ? 'on' : 'off',
          tokensPerS: decimals(comparison.mean('mixed', conditions, replayed), 1),
          overGpu: decimals(overGpu, 3),
          overFpga: decimals(overFpga, 3),
          share: decimals(mean(shares) * 100, 1),
        }
      }),
    ),
  }
}

function baselineTable(fitted: (gpu: GpuId) => Ratios, vllm: (gpu: GpuId) => Ratios): StudyTable {
  return {
    title: 'What the GPUs run decides the comparison',
    columns: [
      { key: 'gpu', label: 'GPU' },
      { key: 'baseline', label: 'software on the GPUs' },
      { key: 'overGpu', label: 'over GPUs', unit: '×' },
      { key: 'overFpga', label: 'over FPGAs', unit: '×' },
    ],
    rows: GPU_IDS.flatMap((gpu) => [
      baselineRow(gpu, 'Hugging Face, as in the paper (replayed, fitted)', fitted(gpu)),
      baselineRow(gpu, 'vLLM-class, one sequence at a time (closed form)', vllm(gpu)),
    ]),
    note: 'A vLLM-class engine would also decode many sequences at once, which this comparison leaves out; kvasir study replay does not.',
  }
}

function baselineRow(gpu: GpuId, baseline: string, { overGpu, overFpga }: Ratios) {
  return { gpu: GPU_NAMES[gpu], baseline, overGpu: decimals(overGpu, 3), overFpga: decimals(overFpga, 3) }
}

function ratioPlot(fitted: (gpu: GpuId) => Ratios, unfitted: (gpu: GpuId) => Ratios): StudyPlot {
  const points = (ratios: (gpu: GpuId) => Ratios) =>
    GPU_IDS.flatMap((gpu) =>
      AGAINST.map(({ key, name }) => ({ x: `${GPU_NAMES[gpu]}, ${name}`, y: finite(ratios(gpu)[key]) })),
    )
  return {
    title: 'Throughput of 1 GPU and 7 U280 against 8 of a kind',
    kind: 'bars',
    x: { label: 'against' },
    y: { label: 'throughput ratio', unit: '×' },
    series: [
      { name: 'paper', points: points((gpu) => PAPER_THROUGHPUT[gpu]), isReference: true },
      { name: 'replayed, two constants fitted', points: points(fitted) },
      { name: 'replayed, nothing fitted', points: points(unfitted) },
    ],
    rules: [{ y: 1, label: 'as fast' }],
    note: 'Geometric means over the workloads; modelled times.',
  }
}

function workloadPlot(comparison: Comparison, gpu: GpuId): StudyPlot {
  const names = { mixed: '1 GPU + 7 U280', 'gpu-only': '8 GPUs', 'fpga-only': '8 U280' } as const
  return {
    title: `Throughput by workload, ${GPU_NAMES[gpu]}`,
    kind: 'bars',
    x: { label: '[tokens in, tokens out]' },
    y: { label: 'throughput', unit: 'token/s' },
    series: (['mixed', 'gpu-only', 'fpga-only'] as const).map((system) => ({
      name: names[system],
      points: comparison.workloads.map((workload) => ({
        x: workloadText(workload),
        y: finite(comparison.run(system, asPublished(gpu), workload)?.measure.tokensPerS ?? Number.NaN),
      })),
    })),
    note: 'GPU decode fitted; modelled times.',
  }
}

function assistPlot(comparison: Comparison): StudyPlot {
  return {
    title: 'What GPU decode assistance brings',
    kind: 'bars',
    x: { label: 'GPU' },
    y: { label: 'throughput of the mixed system, geometric mean', unit: 'token/s' },
    series: [true, false].map((decodeAssist) => ({
      name: decodeAssist ? 'assistance on' : 'assistance off',
      points: GPU_IDS.map((gpu) => ({
        x: GPU_NAMES[gpu],
        y: finite(comparison.mean('mixed', { ...asPublished(gpu), decodeAssist }, replayed)),
      })),
    })),
  }
}

function runRow({ options, system, workload, decodeAssist, measure, closedTokensPerS }: Run) {
  return {
    system,
    gpu: system === 'fpga-only' ? null : options.gpu,
    inputTokens: workload.inputTokens,
    outputTokens: workload.outputTokens,
    fitted: options.fitted ? 'yes' : 'no',
    mergedLoads: options.mergedLoads,
    decodeAssist: decodeAssist ? 'on' : 'off',
    tokensPerS: finite(measure.tokensPerS),
    closedTokensPerS: finite(closedTokensPerS),
    gpuDecodedShare: finite(measure.gpuDecodedShare),
    energyPerTokenJ: finite(measure.energyPerTokenJ),
  } satisfies Record<string, Cell>
}

function transferRow({ options, workload, measure }: TransferRun) {
  return {
    system: 'mixed, one request at a time',
    gpu: options.gpu,
    inputTokens: workload.inputTokens,
    mergeLayers: options.mergeLayers,
    prefillMs: finite(measure.prefillMs),
    exposedMs: finite(measure.exposedMs),
    overlap: finite(measure.overlap),
  } satisfies Record<string, Cell>
}

export function workloadText({ inputTokens, outputTokens }: Workload): string {
  return `[${inputTokens}, ${outputTokens}]`
}
