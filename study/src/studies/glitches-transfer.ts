/** How much of the KV transfer prefill hides, and what it costs to send several layers together. */
import { decimals, fixed } from '../rounding.js'
import { mean } from '../statistics.js'
import type { StudyPlot, StudyTable } from '../study.js'
import { asPublished, type Comparison, type TransferRun } from './glitches-compare.js'
import { GPU_IDS, GPU_NAMES, type GpuId } from './glitches-paper.js'

export function transferTable(transfers: readonly TransferRun[], comparison: Comparison): StudyTable {
  const merges = distinct(transfers.map(({ options }) => options.mergeLayers))
  return {
    title: 'KV transfer beside prefill, one request at a time and under load',
    columns: [
      { key: 'gpu', label: 'GPU' },
      { key: 'inputTokens', label: 'tokens in' },
      { key: 'prefillMs', label: 'prefill', unit: 'ms' },
      { key: 'overlap', label: 'transfer that prefill hides, layer by layer', unit: '%' },
      { key: 'loaded', label: 'the same under load', unit: '%' },
      ...merges.map((merge) => ({
        key: `exposed${merge}Ms`,
        label: `left after prefill, ${merge} layer${merge === 1 ? '' : 's'} together`,
        unit: 'ms',
      })),
    ],
    rows: GPU_IDS.flatMap((gpu) =>
      lengthsOf(transfers).flatMap((inputTokens) => {
        const of = (merge: number) => find(transfers, gpu, inputTokens, merge)?.measure
        const single = of(1)
        if (single === undefined) return []
        return [
          {
            gpu: GPU_NAMES[gpu],
            inputTokens,
            prefillMs: fixed(single.prefillMs, 1),
            overlap: percent(single.overlap),
            loaded: percent(overlapUnderLoad(comparison, gpu, inputTokens)),
            ...Object.fromEntries(
              merges.map((merge) => [`exposed${merge}Ms`, decimals(of(merge)?.exposedMs ?? Number.NaN, 2)]),
            ),
          },
        ]
      }),
    ),
    note: 'Messages have no cost of their own here, so merging layers only delays; on a live link it saves calls (kvasir bench wire).',
  }
}

export function transferPlots(transfers: readonly TransferRun[], comparison: Comparison): StudyPlot[] {
  const merges = distinct(transfers.map(({ options }) => options.mergeLayers))
  return [
    {
      title: 'Share of the KV transfer that prefill hides, layer by layer',
      kind: 'bars',
      x: { label: 'tokens in' },
      y: { label: 'hidden', unit: '%' },
      series: GPU_IDS.flatMap((gpu) => [
        {
          name: `${GPU_NAMES[gpu]}, alone`,
          points: lengthsOf(transfers).map((inputTokens) => ({
            x: String(inputTokens),
            y: percent(find(transfers, gpu, inputTokens, 1)?.measure.overlap),
          })),
        },
        {
          name: `${GPU_NAMES[gpu]}, under load`,
          points: lengthsOf(transfers).map((inputTokens) => ({
            x: String(inputTokens),
            y: percent(overlapUnderLoad(comparison, gpu, inputTokens)),
          })),
        },
      ]),
      note: 'Under load: mean over the outputs, the GPU decoding too. What is left alone is the last of 32 layers.',
    },
    {
      title: 'KV that arrives after prefill',
      kind: 'bars',
      x: { label: 'tokens in' },
      y: { label: 'time after prefill', unit: 'ms' },
      series: merges.map((merge) => ({
        name: `${merge} layer${merge === 1 ? '' : 's'} together`,
        points: lengthsOf(transfers).map((inputTokens) => ({
          x: String(inputTokens),
          y: find(transfers, GPU_IDS[0], inputTokens, merge)?.measure.exposedMs ?? null,
        })),
      })),
      note: `${GPU_NAMES[GPU_IDS[0]]}; what is left of the last group of layers.`,
    },
  ]
}

/** Mean over the workloads with so many tokens in; undefined where there are none. */
function overlapUnderLoad(comparison: Comparison, gpu: GpuId, inputTokens: number): number | undefined {
  const overlaps = comparison.workloads.flatMap((workload) => {
    if (workload.inputTokens !== inputTokens) return []
    const run = comparison.run('mixed', asPublished(gpu), workload)
    return run ? [run.measure.overlap] : []
  })
  if (overlaps.length === 0) return undefined
  return mean(overlaps)
}

function percent(share: number | undefined): number | null {
  return share === undefined ? null : fixed(share * 100, 1)
}

function find(transfers: readonly TransferRun[], gpu: string, inputTokens: number, mergeLayers: number) {
  return transfers.find(
    ({ options, workload }) =>
      options.gpu === gpu && workload.inputTokens === inputTokens && options.mergeLayers === mergeLayers,
  )
}

function lengthsOf(transfers: readonly TransferRun[]): number[] {
  return distinct(transfers.map(({ workload }) => workload.inputTokens))
}

function distinct(values: readonly number[]): number[] {
  return [...new Set(values)].sort((a, b) => a - b)
}
