/** What the points of the GLITCHES study say together: means over workloads, and one system against another. */
import { deviceModel } from '@kvasir/catalogue/device-model'
import type { Catalogue } from '@kvasir/catalogue/specs'
import {
  geometricMean,
  homogeneousTokensPerS,
  mixedTokensPerS,
  type Workload,
} from './glitches-closed-form.js'
import { type GpuId, PAPER_MODEL, type Ratios } from './glitches-paper.js'
import type { GlitchesMeasure, GlitchesPoint } from './glitches-point.js'
import { fpgaModel, type SystemName } from './glitches-systems.js'

export interface Run extends GlitchesPoint {
  readonly measure: GlitchesMeasure
  readonly closedTokensPerS: number
}

export interface TransferRun extends GlitchesPoint {
  readonly measure: GlitchesMeasure
}

/** Under which conditions systems are compared. */
export interface Conditions {
  readonly gpu: GpuId
  readonly fitted: boolean
  readonly mergedLoads: 1 | 4
  readonly decodeAssist: boolean
}

export const asPublished = (gpu: GpuId): Conditions => {
  return { gpu, fitted: true, mergedLoads: 4, decodeAssist: true }
}

export type Rate = (run: Run) => number
export const replayed: Rate = ({ measure }) => measure.tokensPerS
export const closed: Rate = ({ closedTokensPerS }) => closedTokensPerS

export class Comparison {
  readonly #runs: readonly Run[]
  readonly workloads: readonly Workload[]

  constructor(runs: readonly Run[], workloads: readonly Workload[]) {
    this.#runs = runs
    this.workloads = workloads
  }

  /** Undefined where the study was stopped before it. */
  run(system: SystemName, conditions: Conditions, workload: Workload): Run | undefined {
    return this.#runs.find((run) => isOf(run, system, conditions) && sameWorkload(run.workload, workload))
  }

  /** Geometric mean over the workloads that are there; NaN where there are none. */
  mean(system: SystemName, conditions: Conditions, rate: Rate): number {
    const there = this.#runs.filter((run) => isOf(run, system, conditions))
    return geometricMean(there.map(rate))
  }

  /** The mixed system against 8 of a kind: geometric means over workloads that all systems have. */
  ratios(conditions: Conditions, rate: Rate): Ratios {
    const over = (system: SystemName) => {
      const quotients = this.workloads.flatMap((workload) => {
        const mixed = this.run('mixed', conditions, workload)
        const other = this.run(system, conditions, workload)
        return mixed && other ? [rate(mixed) / rate(other)] : []
      })
      return geometricMean(quotients)
    }
    return { overGpu: over('gpu-only'), overFpga: over('fpga-only') }
  }

  /** The furthest that a replay is from the closed form, as a share of it. */
  get differenceMax(): number {
    return Math.max(0, ...this.#runs.map((run) => Math.abs(replayed(run) / closed(run) - 1)))
  }
}

/** The same comparison with an engine on the GPUs that reads weights as fast as vLLM, one sequence at a time: closed form. */
export function vllmClassRatios(catalogue: Catalogue, gpu: GpuId, workloads: readonly Workload[]): Ratios {
  const onGpu = deviceModel(catalogue, { device: gpu, model: PAPER_MODEL, preset: 'vllm' })
  const onFpga = fpgaModel(catalogue, { gpu, fitted: false, mergedLoads: 4, mergeLayers: 1 })
  const mixed = (workload: Workload) => mixedTokensPerS(onGpu, onFpga, workload, true)
  const over = (model: typeof onGpu) =>
    geometricMean(workloads.map((workload) => mixed(workload) / homogeneousTokensPerS(model, workload)))
  return { overGpu: over(onGpu), overFpga: over(onFpga) }
}

function isOf({ system, options, decodeAssist }: Run, asked: SystemName, conditions: Conditions): boolean {
  if (system !== asked) return false
  const isSameGpu = options.gpu === conditions.gpu && options.fitted === conditions.fitted
  const isSameFpga = options.mergedLoads === conditions.mergedLoads
  if (system === 'gpu-only') return isSameGpu
  if (system === 'fpga-only') return isSameFpga
  return isSameGpu && isSameFpga && decodeAssist === conditions.decodeAssist
}

function sameWorkload(a: Workload, b: Workload): boolean {
  return a.inputTokens === b.inputTokens && a.outputTokens === b.outputTokens
}
