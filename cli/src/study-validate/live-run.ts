/**
 * Plays a plan on a live cluster of paced agents: requests over HTTP at their times, and one agent killed at its,
 * which the supervisor starts again.
 *
 * L1 Requests are sent at their times whatever became of earlier ones (an open loop), so that waiting is the cluster's.
 * L2 Times are a client's, on this process's clock; but the first token's, which the coordinator tells: a client sees a
 *    token when its text has whole characters, and a small model's random text often has not.
 */
import type { CompletionHistory } from '@kvasir/coordinator/core/completion-record'
import type { ClusterReport, DeviceReport, RequestReport } from '@kvasir/coordinator/generation'
import { delay } from '@kvasir/runtime/deferred'
import { messageOf } from '@kvasir/runtime/errors'
import type { VirtualRequest } from '@kvasir/study/cluster/request'
import { median } from '@kvasir/study/statistics'
import type { PlayedRequest } from '@kvasir/study/studies/validate-compare'
import { type ValidatePlan, WARM_UP } from '@kvasir/study/studies/validate-plan'
import { promptOf } from '../bench/streams.js'
import { callJson } from '../client/api-client.js'
import { generate } from '../client/generation.js'
import type { LocalCluster } from '../supervisor/local-cluster.js'

export interface LiveModel {
  /** As the cluster names it. */
  readonly name: string
  readonly vocabularySize: number
}

export interface LiveRun {
  readonly requests: readonly PlayedRequest[]
  /** At the end, of the devices that were left. */
  readonly devices: readonly DeviceReport[]
  /** When the agent was killed, and when the coordinator saw its next life, since the run began. */
  readonly lostAtMs: number
  readonly backAtMs: number
}

const RETURN_POLL_MS = 50
/** Reserve and prefill, there and back. */
const MESSAGES_TO_FIRST_TOKEN = 4
/** How late the last requests may end. */
const DRAIN_MS = 60_000

export async function playLive(
  cluster: LocalCluster,
  model: LiveModel,
  plan: ValidatePlan,
  signal: AbortSignal,
  progress: (share: number) => void,
): Promise<LiveRun> {
  const { requests, lostDevice, lossAtMs } = plan
  const beganMs = performance.now()
  const lastMs = requests.at(-1)?.arrivalMs ?? 0
  const late = AbortSignal.any([signal, AbortSignal.timeout(Math.ceil(lastMs) + DRAIN_MS)])
  let ended = 0
  const losing = loseAgent(cluster, lostDevice, { beganMs, lossAtMs }, late)
  const playing: Promise<PlayedRequest>[] = []
  for (const [index, request] of requests.entries()) {
    await delay(Math.max(0, request.arrivalMs - (performance.now() - beganMs)), late)
    if (late.aborted) break
    const prompt = promptOf(index + 1, request.promptTokens, model.vocabularySize)
    const played = playOne(cluster.url, model.name, request, prompt, beganMs, late)
    playing.push(
      played.finally(() => {
        ended += 1
        progress(ended / requests.length)
      }),
    )
  }
  const played = await Promise.all(playing)
  const { lostAtMs, backAtMs } = await losing
  signal.throwIfAborted()
  const { devices } = await callJson<ClusterReport>(cluster.url, '/v1/cluster')
  return { requests: played, devices: devices.filter(({ pace }) => pace !== null), lostAtMs, backAtMs }
}

/**
 * So that no code of any process runs for the first time while it is measured, and nothing is placed by guesses.
 *
 * @returns what a message between two processes takes here, milliseconds: of the time to a first token what was not
 * the device's, for each message in it
 */
export async function warmUp(cluster: LocalCluster, model: LiveModel, signal: AbortSignal): Promise<number> {
  const { requests, promptTokens, outputTokens: maxTokens } = WARM_UP
  for (let index = 0; index < requests; index += 1) {
    const prompt = promptOf(1_000_000 + index, promptTokens, model.vocabularySize)
    const wish = { model: model.name, prompt, chat: false, maxTokens, ignoreEos: true, cachePrompt: false }
    await generate(cluster.url, wish, signal)
  }
  const { completions } = await callJson<CompletionHistory>(cluster.url, '/v1/completions/history')
  const overheadMs = completions.flatMap(({ record, measured }) =>
    record.prefill && measured.ttftMs !== null ? measured.ttftMs - record.prefill.computeMs : [],
  )
  return median(overheadMs) / MESSAGES_TO_FIRST_TOKEN
}

async function loseAgent(
  cluster: LocalCluster,
  device: string,
  { beganMs, lossAtMs }: { readonly beganMs: number; readonly lossAtMs: number },
  signal: AbortSignal,
): Promise<Pick<LiveRun, 'lostAtMs' | 'backAtMs'>> {
  const sinceBegin = () => performance.now() - beganMs
  const lives = async () => (await callJson<ClusterReport>(cluster.url, '/v1/cluster')).devices
  const firstLife = (await lives()).find(({ deviceId }) => deviceId === device)?.incarnation
  await delay(lossAtMs - sinceBegin(), signal)
  const { pid = 0 } = cluster.processes().find(({ name }) => name === device) ?? {}
  if (signal.aborted || pid === 0)
    return { lostAtMs: Number.POSITIVE_INFINITY, backAtMs: Number.POSITIVE_INFINITY }
  process.kill(pid, 'SIGKILL')
  const lostAtMs = sinceBegin()
  while (!signal.aborted) {
    await delay(RETURN_POLL_MS, signal)
    const now = (await lives()).find(({ deviceId }) => deviceId === device)
    if (now?.state === 'ready' && now.incarnation !== firstLife) return { lostAtMs, backAtMs: sinceBegin() }
  }
  return { lostAtMs, backAtMs: Number.POSITIVE_INFINITY }
}

async function playOne(
  url: string,
  model: string,
  request: VirtualRequest,
  prompt: readonly number[],
  beganMs: number,
  signal: AbortSignal,
): Promise<PlayedRequest> {
  const { requestId, promptTokens, outputTokens: maxTokens } = request
  const arrivalMs = performance.now() - beganMs
  const common = { requestId, promptTokens, arrivalMs }
  try {
    const wish = {
      model,
      prompt,
      chat: false,
      maxTokens,
      temperature: 0,
      ignoreEos: true,
      cachePrompt: false,
    }
    const { tokenMs, requestId: id } = await generate(url, wish, signal)
    const { placements, measured } = await callJson<RequestReport>(url, `/v1/requests/${id}`)
    const { prefillDevice = '', decodeDevice = '' } = placements.at(-1) ?? {}
    return {
      ...common,
      tokens: tokenMs.length,
      firstTokenMs: arrivalMs + (measured.ttftMs ?? Number.NaN),
      lastTokenMs: arrivalMs + (tokenMs.at(-1) ?? Number.NaN),
      isFinished: true,
      why: '',
      ...{ prefillDevice, decodeDevice, placements: placements.length },
    }
  } catch (error) {
    return {
      ...common,
      ...{ tokens: 0, firstTokenMs: Number.NaN, lastTokenMs: performance.now() - beganMs },
      ...{ isFinished: false, why: messageOf(error), prefillDevice: '', decodeDevice: '', placements: 0 },
    }
  }
}
