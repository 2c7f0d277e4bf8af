/**
 * The stages of the pipelines that a request used, for a person: where each ran, what was predicted, what
 * was measured. Rendered only when somebody asks.
 *
 * Times of prefix reuse are of the request; times of attention are means of one decode step over all
 * layers, what happens once spread over the steps.
 */
import type { Decision } from '../core/decision.js'
import type { PlannedStage } from '../core/stage-plan.js'
import type { AttentionReport, StageReport } from '../generation.js'
import { roundMs } from '../round-ms.js'
import type { AttentionSums } from './attention-calls.js'
import type { EpochFigures } from './epoch-figures.js'

/** The coordinator's own part of a pipeline. */
const COORDINATOR = 'coordinator'

/** A planned stage, with what it took where that is known. */
export function stageReport(
  pipeline: StageReport['pipeline'],
  planned: PlannedStage,
  measuredMs: number | null,
): StageReport {
  const { stage, what, devices, computeMs, transferMs, transferBytes, alternative, reason } = planned
  return {
    pipeline,
    stage,
    what,
    devices,
    predictedMs: roundMs(computeMs),
    transferMs: roundMs(transferMs),
    transferBytes: Math.round(transferBytes),
    measuredMs: measuredMs === null ? null : roundMs(measuredMs),
    alternative: alternative && {
      devices: alternative.devices,
      pipelineMs: roundMs(alternative.pipelineMs),
    },
    reason,
  }
}

export function attentionReport({ attention }: Decision, sums: AttentionSums): AttentionReport {
  const { method, budgetPages, promptPages, place, attend, asked, reason } = attention
  return {
    method,
    budgetPages,
    promptPages,
    place,
    attendDevice: attend?.deviceId ?? null,
    asked,
    reason,
    pages: sums.pages,
    pagesRead: sums.pagesRead,
    wireBytes: sums.wireBytes,
    remoteMs: roundMs(sums.remoteUs / 1000),
  }
}

export function attentionStages({ attention }: Decision, sums: AttentionSums): StageReport[] {
  const measuredUs = {
    prepare: sums.prepareUs,
    relevancy: sums.relevancyUs,
    retrieval: sums.retrievalUs,
    apply: sums.applyUs,
  }
  return attention.stages.map((planned) => {
    const measuredMs = sums.steps > 0 ? measuredUs[planned.stage] / sums.steps / 1000 : null
    return stageReport('attention', planned, measuredMs)
  })
}

/** `blocks`: full blocks of the prompt, none where nothing may be reused. */
export function prefixStages(
  { prefix, prefill }: Decision,
  reuse: EpochFigures['reuse'],
  computeUs: number | null,
): StageReport[] {
  if (prefix.blocks === 0) return []
  const { fetch, localTokens, computeTokens, computeMs } = prefix
  const own = (stage: 'prepare' | 'relevancy', what: string, reason: string): StageReport => ({
    pipeline: 'prefix',
    stage,
    what,
    devices: [COORDINATOR],
    predictedMs: null,
    transferMs: null,
    transferBytes: 0,
    measuredMs: null,
    alternative: null,
    reason,
  })
  const fetchMs = fetch?.fetchMs ?? 0
  return [
    own(
      'prepare',
      `hashes of ${counted(prefix.blocks, 'block')}`,
      "The coordinator has the prompt's tokens.",
    ),
    own('relevancy', 'directory lookup', 'The coordinator follows which device holds which blocks.'),
    {
      pipeline: 'prefix',
      stage: 'retrieval',
      what: fetch ? `fetch of ${counted(fetch.tokens - localTokens, 'token')}` : 'nothing fetched',
      devices: [fetch?.device.deviceId ?? prefill.deviceId],
      predictedMs: 0,
      transferMs: roundMs(fetchMs),
      transferBytes: reuse?.fetchedBytes ?? 0,
      measuredMs: reuse && reuse.fetchedTokens > 0 ? roundMs(reuse.fetchMs) : null,
      alternative: retrievalAlternative(prefix, prefill.deviceId),
      reason: retrievalReason(prefix, prefill.deviceId),
    },
    {
      pipeline: 'prefix',
      stage: 'apply',
      what: `prefill of ${counted(computeTokens, 'token')}`,
      devices: [prefill.deviceId],
      predictedMs: roundMs(computeMs),
      transferMs: 0,
      transferBytes: 0,
      measuredMs: computeUs === null ? null : roundMs(computeUs / 1000),
      alternative: null,
      reason: `${prefill.deviceId} was chosen to prefill.`,
    },
  ]
}

/** With the blocks computed where they were fetched, or fetched where they were computed. */
function retrievalAlternative(
  { fetch, unused, unfetchedMs }: Decision['prefix'],
  prefillDeviceId: string,
): StageReport['alternative'] {
  if (fetch) return { devices: [prefillDeviceId], pipelineMs: roundMs(unfetchedMs) }
  const slower = unused.find(({ why }) => why === 'slower')
  if (!slower) return null
  return { devices: [slower.deviceId], pipelineMs: roundMs(slower.prefillMs) }
}

function retrievalReason(
  { fetch, localTokens, unused }: Decision['prefix'],
  prefillDeviceId: string,
): string {
  if (fetch) {
    return `Fetching is predicted to take ${msText(fetch.fetchMs)} and computing ${msText(fetch.computeMs)}.`
  }
  const slower = unused.find(({ why }) => why === 'slower')
  if (slower) return `Fetching from ${slower.deviceId} is predicted to take longer than computing.`
  const [other] = unused
  if (other) return `More of it is cached on ${other.deviceId}, which cannot be asked now.`
  if (localTokens > 0) return `${prefillDeviceId} holds what is cached itself.`
  return 'Nothing of the prompt is known to be cached.'
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`
}

function msText(ms: number): string {
  return `${Number(ms.toPrecision(3))} ms`
}
