/**
 * `kvasir study validate`: one workload on a live cluster of paced agents, with real processes, NATS and gRPC, and the same
 * in virtual time. How far they lie apart is what a study's figures may be wrong by.
 */
import path from 'node:path'
import { loadCatalogue } from '@kvasir/catalogue/load-catalogue'
import { loadTextModel } from '@kvasir/engine/text/text-model'
import { UnavailableError } from '@kvasir/runtime/errors'
import { type Comparison, compareRuns } from '@kvasir/study/studies/validate-compare'
import {
  FPGAS,
  LINK_BYTES_PER_SECOND,
  VALIDATED,
  type ValidatePlan,
  validatePlan,
} from '@kvasir/study/studies/validate-plan'
import { playVirtually } from '@kvasir/study/studies/validate-virtual'
import type { StudyContext, StudyOptions, StudyResult } from '@kvasir/study/study'
import { withBenchCluster } from '../bench/bench-cluster.js'
import { type LiveRun, playLive, warmUp } from './live-run.js'

export interface ValidateOptions {
  readonly requests: number
  readonly load: number
}

/** What computes for real: so small that two cores keep up with four devices. Agents send each layer's KV by itself. */
const LIVE_MODEL = 'dummy:llama-tiny'
const LIVE_LAYERS = 3
const LIVE_MERGE_LAYERS = 1

export async function studyValidate(
  { requests, load, seed, catalogue: files }: ValidateOptions & StudyOptions,
  context: StudyContext,
): Promise<StudyResult> {
  const catalogue = loadCatalogue([...files])
  const { vocabularySize } = await loadTextModel(LIVE_MODEL)
  const wish = { requests, load, seed, liveLayers: LIVE_LAYERS, liveMergeLayers: LIVE_MERGE_LAYERS }
  const own = files.flatMap((file) => ['--catalogue', path.resolve(file)])
  const pace = (device: string) => [
    ...['--pace-as', device, '--pace-model', VALIDATED.model, '--pace-preset', VALIDATED.preset, ...own],
    // One memory for KV, and one core for each agent, of which there are more than cores.
    ...['--merge-layers', String(LIVE_MERGE_LAYERS), '--threads', '1'],
  ]
  const agentFlags = {
    gpu: [...pace(VALIDATED.gpu), '--link-bytes-per-second', String(LINK_BYTES_PER_SECOND)],
    fpga: [...pace(VALIDATED.fpga), '--ddr-bytes', '0'],
  }
  return withBenchCluster(
    { model: LIVE_MODEL, fpgas: FPGAS, agentFlags },
    context.signal,
    async (cluster) => {
      const model = { name: LIVE_MODEL, vocabularySize }
      const messageMs = await warmUp(cluster, model, context.signal)
      const plan = validatePlan(catalogue, wish, messageMs)
      context.say(
        `${requests} requests at ${plan.ratePerS.toFixed(2)} a second, ${Math.round(load * 100)} % of what the cluster sustains; ${plan.lostDevice} is lost after ${Math.round(plan.lossAtMs / 1_000)} s`,
      )
      const live = await playLive(cluster, model, plan, context.signal, (share) =>
        context.progress(share, 'live requests'),
      )
      if (live.requests.every(({ isFinished }) => !isFinished)) {
        throw new UnavailableError(`No live request ended: ${live.requests[0]?.why ?? 'none was sent'}.`)
      }
      const loss = { lossAtMs: live.lostAtMs, returnAtMs: live.backAtMs, requestsHit: movedIn(live) }
      const virtual = playVirtually(plan, asSent(plan, live), loss, seed)
      return resultOf(plan, live, messageMs, compareRuns({ live: live.requests, virtual }))
    },
  )
}

/** Requests at the times at which they were really sent, a millisecond or two after the planned ones. */
function asSent({ requests }: ValidatePlan, live: LiveRun): ValidatePlan['requests'] {
  const sentMs = new Map(live.requests.map(({ requestId, arrivalMs }) => [requestId, arrivalMs]))
  return requests
    .map((request) => ({ ...request, arrivalMs: sentMs.get(request.requestId) ?? request.arrivalMs }))
    .sort((a, b) => a.arrivalMs - b.arrivalMs)
}

function lossText({ lostDevice }: ValidatePlan, { lostAtMs, backAtMs }: LiveRun): string {
  if (!Number.isFinite(lostAtMs)) return `${lostDevice} was to be killed half-way, but did not run then`
  if (!Number.isFinite(backAtMs)) return `${lostDevice} was killed half-way and did not come back`
  return `${lostDevice} was killed half-way and was back after ${((backAtMs - lostAtMs) / 1_000).toFixed(1)} s`
}

function percent(share: number): string {
  return share > 0 && share < 0.0005 ? 'less than 0.1 %' : `${(share * 100).toFixed(1)} %`
}

function movedIn({ requests }: LiveRun): readonly string[] {
  return requests.filter(({ placements }) => placements > 1).map(({ requestId }) => requestId)
}

function resultOf(plan: ValidatePlan, live: LiveRun, messageMs: number, compared: Comparison): StudyResult {
  const steps = live.devices.reduce((sum, { pace }) => sum + (pace?.steps ?? 0), 0)
  const lateSteps = live.devices.reduce((sum, { pace }) => sum + (pace?.lateSteps ?? 0), 0)
  const lateMs = live.devices.reduce((sum, { pace }) => sum + (pace?.lateMs ?? 0), 0)
  const busyMs = live.devices.reduce((sum, { pace }) => sum + (pace?.busyMs ?? 0), 0)
  const figures = {
    ...compared.figures,
    lateStepShare: lateSteps / steps,
    lateTimeShare: lateMs / busyMs,
    messageMs,
    sustainablePerS: plan.sustainablePerS,
    ratePerS: plan.ratePerS,
  }
  const { ttftError, tpotError, throughputError } = figures
  return {
    title: 'How far is virtual time from the live system?',
    findings: [
      `Time to the first token is ${percent(ttftError)} off, time for each token ${percent(tpotError)}, throughput ${percent(throughputError)}, of means over the same ${plan.requests.length} requests.`,
      `The live cluster: real processes, NATS, gRPC and HTTP, with ${plan.cluster.name}, at ${percent(plan.ratePerS / plan.sustainablePerS)} of the sustainable rate; the GPU's link, ${LINK_BYTES_PER_SECOND / 1e9} GB/s, is shared by its transfers; ${lossText(plan, live)}.`,
      `${percent(figures.lateStepShare)} of the live device steps were late, by ${percent(figures.lateTimeShare)} of the devices' time: what this machine could not compute as fast as the catalogued devices.`,
    ],
    figures,
    rows: compared.rows,
    tables: compared.tables,
    plots: compared.plots,
    assumptions: [
      `Device times of both runs: the catalogue's ${VALIDATED.preset} preset. The live run computes with a small model and waits; what is compared is all around the devices.`,
      `A message between two processes takes ${messageMs.toFixed(2)} ms in virtual time, a quarter of what requests of the warm-up took beyond their device's time; in the further plays 0.6 to 1.4 times that.`,
      'Virtual requests arrive when the live ones were sent, after the same warm-up; a device is lost and comes back when the live one did: of the equal ones, the one that serves a request which the live loss hit.',
    ],
    pointsSkipped: 0,
  }
}
