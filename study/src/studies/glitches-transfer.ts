/** How much of the KV transfer prefill hides, and what it costs to send several layers together. */
import type { StudyPlot, StudyTable } from '../study.js'
import type { TransferRun } from './glitches-compare.js'
import { GPU_IDS, GPU_NAMES } from './glitches-paper.js'

export function transferTable(transfers: readonly TransferRun[]): StudyTable {
  const merges = distinct(transfers.map(({ options }) => options.mergeLayers))
  return {
    title: 'KV transfer beside prefill, one request at a time',
    columns: [
      { key: 'gpu', label: 'GPU' },
      { key: 'inputTokens', label: 'tokens in' },
      { key: 'prefillMs', label: 'prefill', unit: 'ms' },
      { key: 'overlap', label: 'transfer that prefill hides, layer by layer', unit: '%' },
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
            prefillMs: Number(single.prefillMs.toFixed(1)),
            overlap: Number((single.overlap * 100).toFixed(1)),
            ...Object.fromEntries(
              merges.map((merge) => [`exposed${merge}Ms`, digits(of(merge)?.exposedMs ?? Number.NaN)]),
            ),
          },
        ]
      }),
    ),
    note: 'Messages have no cost of their own here, so merging layers only delays; on a live link it saves calls (kvasir bench wire).',
  }
}

export function transferPlots(transfers: readonly TransferRun[]): StudyPlot[] {
  const merges = distinct(transfers.map(({ options }) => options.mergeLayers))
  return [
    {
      title: 'Share of the KV transfer that prefill hides',
      kind: 'line',
      x: { label: 'layers sent together', scale: 'log' },
      y: { label: 'hidden', unit: '%' },
      series: GPU_IDS.flatMap((gpu) =>
        lengthsOf(transfers).map((inputTokens) => ({
          name: `${GPU_NAMES[gpu]}, ${inputTokens} tokens`,
          points: merges.map((merge) => {
            const overlap = find(transfers, gpu, inputTokens, merge)?.measure.overlap
            return { x: merge, y: overlap === undefined ? null : overlap * 100 }
          }),
        })),
      ),
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

function digits(value: number): number | null {
  return Number.isFinite(value) ? Number(value.toFixed(2)) : null
}
