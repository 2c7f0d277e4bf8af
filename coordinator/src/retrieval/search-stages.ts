/**
 * The four stages of a search as a report: where each was predicted to run best and how long it would
 * take, and where it ran and how long it took there.
 *
 * Devices that retrieve search; the owner, which could search everything, stands in where none can. So
 * the table shows what a search by the owner alone was predicted to take, as the alternative.
 */
import {
  planRetrieval,
  RETRIEVAL_KERNELS,
  type RetrievalDevice,
  type RetrievalPlanInput,
  retrievalWork,
} from '../core/retrieval-plan.js'
import type { StageCosts } from '../core/stage-costs.js'
import type { PlannedStage } from '../core/stage-plan.js'
import type { StageReport } from '../generation.js'
import { roundMs } from '../round-ms.js'

/** One shard of a search, with the device that it was planned for. */
export interface StagedShard {
  readonly documents: number
  /** Bytes of its postings of the query's terms. */
  readonly postingsBytes: number
  readonly device: RetrievalDevice
}

export interface StagedSearch {
  readonly queryBytes: number
  readonly terms: number
  readonly k: number
  readonly owner: RetrievalDevice
  readonly shards: readonly StagedShard[]
  /** Where documents are put into a prompt; null for a search on its own. */
  readonly apply: { readonly deviceId: string; readonly documentsBytes: number } | null
}

/** What one shard's device said. */
export interface ShardTimes {
  readonly device: RetrievalDevice
  readonly relevancyUs: number
  readonly retrievalUs: number
}

/** Where documents become a prompt is no device; copying text is what it does. */
const APPLY_BYTES_PER_SECOND = 100e6
const APPLY_CALL_MS = 0.2

/** Predicted by what was learned so far. */
export function planSearch(search: StagedSearch, costs: StageCosts): readonly PlannedStage[] {
  const planned = planRetrieval(
    inputOf(search, ({ device }) => device),
    costs,
  )
  const isAlone = search.shards.every(({ device }) => device.deviceId === search.owner.deviceId)
  if (isAlone) return planned.stages
  const alone = planRetrieval(
    inputOf(search, () => search.owner),
    costs,
  )
  const alternative = { devices: [search.owner.deviceId], pipelineMs: alone.totalMs }
  return planned.stages.map((stage) => {
    if (stage.stage !== 'relevancy' && stage.stage !== 'retrieval') return stage
    const devices = stage.devices.join(' and ')
    const reason =
      stage.stage === 'retrieval'
        ? stage.reason
        : placeText(devices, planned.totalMs, search.owner.deviceId, alone.totalMs)
    return { ...stage, alternative, reason }
  })
}

/** The owner may be the quicker one, which does not make it search: it keeps the documents of all. */
function placeText(devices: string, totalMs: number, ownerId: string, aloneMs: number): string {
  const there = `${devices} ${devices.includes(' and ') ? 'hold' : 'holds'} the postings: all stages together are predicted to take ${msText(totalMs)}`
  return `${there}, and ${msText(aloneMs)} with ${ownerId}, which searches only where no other device can.`
}

/** Teaches the predictions what a shard took. */
export function observeShard(shard: StagedShard, times: ShardTimes, costs: StageCosts): void {
  const work = retrievalWork(shard)
  costs.observe(times.device, RETRIEVAL_KERNELS.relevancy, work.relevancy, times.relevancyUs / 1000)
  costs.observe(times.device, RETRIEVAL_KERNELS.retrieval, work.retrieval, times.retrievalUs / 1000)
}

/** The plan with what became of it; a stage's device differs from the plan's where that one failed. */
export function searchStages(
  planned: readonly PlannedStage[],
  prepareUs: number,
  shards: readonly ShardTimes[],
): readonly StageReport[] {
  const devices = [...new Set(shards.map(({ device }) => device.deviceId))]
  return planned.map((stage) => {
    const report = reportOf(stage)
    if (stage.stage === 'prepare') return { ...report, measuredMs: roundMs(prepareUs / 1000) }
    if (stage.stage === 'apply') return report
    return ranOn(report, devices, busiestMs(shards, `${stage.stage}Us`))
  })
}

/** With the time that it took to put the documents into the prompt. */
export function withApplyTime(stages: readonly StageReport[], measuredMs: number): readonly StageReport[] {
  return stages.map((stage) =>
    stage.stage === 'apply' ? { ...stage, measuredMs: roundMs(measuredMs) } : stage,
  )
}

function inputOf(
  search: StagedSearch,
  deviceOf: (shard: StagedShard) => RetrievalDevice,
): RetrievalPlanInput {
  const { apply } = search
  return {
    queryBytes: search.queryBytes,
    terms: search.terms,
    k: search.k,
    owner: search.owner,
    shards: search.shards.map((shard, index) => ({
      shard: index,
      documents: shard.documents,
      postingsBytes: shard.postingsBytes,
      candidates: [{ device: deviceOf(shard), loadBytes: 0 }],
    })),
    apply: apply && {
      what: 'the documents before the question',
      documentsBytes: apply.documentsBytes,
      options: [
        {
          devices: [apply.deviceId],
          computeMs: APPLY_CALL_MS + (apply.documentsBytes / APPLY_BYTES_PER_SECOND) * 1000,
          device: { deviceId: apply.deviceId, link: { bytesPerSecond: 0, latencyMs: 0 } },
        },
      ],
    },
  }
}

function reportOf(stage: PlannedStage): StageReport {
  return {
    pipeline: 'retrieval',
    stage: stage.stage,
    what: stage.what,
    devices: stage.devices,
    predictedMs: roundMs(stage.computeMs),
    transferMs: roundMs(stage.transferMs),
    transferBytes: Math.round(stage.transferBytes),
    measuredMs: null,
    alternative: stage.alternative && {
      devices: stage.alternative.devices,
      pipelineMs: roundMs(stage.alternative.pipelineMs),
    },
    reason: stage.reason,
  }
}

function ranOn(report: StageReport, devices: readonly string[], measuredMs: number): StageReport {
  const planned = new Set(report.devices)
  const missing = report.devices.filter((device) => !devices.includes(device))
  const isAsPlanned = missing.length === 0 && devices.every((device) => planned.has(device))
  return {
    ...report,
    measuredMs,
    devices,
    ...(isAsPlanned
      ? {}
      : { reason: `${missing.join(' and ') || 'A device'} did not answer; ${devices.join(' and ')} did.` }),
  }
}

/** Devices work side by side, shards of one device one after the other. */
function busiestMs(shards: readonly ShardTimes[], time: 'relevancyUs' | 'retrievalUs'): number {
  const busyUs = new Map<string, number>()
  for (const shard of shards) {
    const { deviceId } = shard.device
    busyUs.set(deviceId, (busyUs.get(deviceId) ?? 0) + shard[time])
  }
  return roundMs(Math.max(0, ...busyUs.values()) / 1000)
}

function msText(ms: number): string {
  return `${Number(ms.toPrecision(3))} ms`
}
