/**
 * GLITCHES (HPEC'24) again: 1 GPU and 7 FPGAs against 8 of a kind, requests replayed through both cores, the closed form
 * beside them and the paper's figures beside both.
 */
import { loadCatalogue } from '@kvasir/catalogue/load-catalogue'
import type { Catalogue } from '@kvasir/catalogue/specs'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { StudyContext, StudyOptions, StudyResult } from '../study.js'
import { homogeneousTokensPerS, mixedTokensPerS, type Workload } from './glitches-closed-form.js'
import type { Run, TransferRun } from './glitches-compare.js'
import { GPU_IDS, type GpuId, LENGTHS } from './glitches-paper.js'
import type { GlitchesMeasure, GlitchesPoint } from './glitches-point.js'
import { glitchesResult } from './glitches-results.js'
import { fpgaModel, gpuModel, type SystemName, type SystemOptions } from './glitches-systems.js'

export interface GlitchesOptions {
  /** Requests of each point; more make the means steadier. */
  readonly requests: number
  /** Only the workloads [128, 128], [128, 1024], [1024, 128] and [1024, 1024]. */
  readonly corners?: boolean
}

/** A system under one set of conditions, over all workloads. */
interface Series {
  readonly system: SystemName
  readonly options: SystemOptions
  readonly decodeAssist: boolean
}

/** Requests of a point without load: the first warms nothing, all are alike. */
const TRANSFER_REQUESTS = 2
const TRANSFER_EVERY_MS = 60_000
const MERGE_LAYERS = [1, 2, 4, 8] as const
/** With fewer, devices have not one request after another in the steady part, and seem to give nothing. */
const REQUESTS_MIN = 32

export async function studyGlitches(
  options: GlitchesOptions & StudyOptions,
  context: StudyContext,
): Promise<StudyResult> {
  if (options.requests < REQUESTS_MIN) {
    throw new InvalidInputError(
      `--requests ${options.requests} are too few to measure eight devices at work: take ${REQUESTS_MIN} or more.`,
      { param: 'requests' },
    )
  }
  const catalogue = loadCatalogue(options.catalogue)
  const lengths = options.corners ? [LENGTHS[0], LENGTHS[3]] : LENGTHS
  const workloads = lengths.flatMap((inputTokens) => {
    return lengths.map((outputTokens): Workload => ({ inputTokens, outputTokens }))
  })
  const shared = { seed: options.seed, catalogueFiles: options.catalogue }
  const series = GPU_IDS.flatMap(seriesOf)
  const loaded = series.flatMap((one) =>
    workloads.map((workload): GlitchesPoint => {
      return { ...shared, ...one, workload, requests: options.requests, everyMs: 0 }
    }),
  )
  const unloaded = GPU_IDS.flatMap((gpu) =>
    lengths.flatMap((inputTokens) =>
      MERGE_LAYERS.map((mergeLayers): GlitchesPoint => {
        const system = { gpu, fitted: true, mergedLoads: 4, mergeLayers } as const
        const workload = { inputTokens, outputTokens: 16 }
        const load = { requests: TRANSFER_REQUESTS, everyMs: TRANSFER_EVERY_MS }
        return { ...shared, system: 'mixed', options: system, decodeAssist: true, workload, ...load }
      }),
    ),
  )

  const module = new URL('./glitches-point.js', import.meta.url)
  const inputs = [...unloaded, ...loaded]
  const measures = await context.points<GlitchesPoint, GlitchesMeasure>(module, inputs, 'workloads')
  const runs: Run[] = []
  const transfers: TransferRun[] = []
  inputs.forEach((input, index) => {
    const measure = measures[index]
    if (measure === undefined) return
    if (input.everyMs > 0) transfers.push({ ...input, measure })
    else runs.push({ ...input, measure, closedTokensPerS: closedForm(catalogue, input) })
  })
  return glitchesResult({
    catalogue,
    workloads,
    runs,
    transfers,
    pointsSkipped: inputs.length - runs.length - transfers.length,
  })
}

/** What is compared for one GPU: fitted and not, with and without help in decoding, with and without merged loads. */
function seriesOf(gpu: GpuId): Series[] {
  const base: SystemOptions = { gpu, fitted: true, mergedLoads: 4, mergeLayers: 1 }
  const table: SystemOptions = { ...base, fitted: false }
  const unmerged: SystemOptions = { ...base, mergedLoads: 1 }
  const series: Series[] = [
    { system: 'gpu-only', options: base, decodeAssist: true },
    { system: 'gpu-only', options: table, decodeAssist: true },
    { system: 'mixed', options: base, decodeAssist: true },
    { system: 'mixed', options: table, decodeAssist: true },
    { system: 'mixed', options: base, decodeAssist: false },
    { system: 'mixed', options: unmerged, decodeAssist: true },
  ]
  // Eight FPGAs are the same whichever GPU they stand against.
  if (gpu !== GPU_IDS[0]) return series
  return [
    ...series,
    { system: 'fpga-only', options: base, decodeAssist: true },
    { system: 'fpga-only', options: unmerged, decodeAssist: true },
  ]
}

function closedForm(
  catalogue: Catalogue,
  { system, options, workload, decodeAssist }: GlitchesPoint,
): number {
  const [gpu, fpga] = [gpuModel(catalogue, options), fpgaModel(catalogue, options)]
  if (system === 'mixed') return mixedTokensPerS(gpu, fpga, workload, decodeAssist)
  return homogeneousTokensPerS(system === 'gpu-only' ? gpu : fpga, workload)
}
