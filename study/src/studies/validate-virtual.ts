/**
 * The virtual half of `kvasir study validate`: a plan as it was really played, in virtual time. Pure.
 *
 * Devices of one kind are equal, and which of them a request is given hangs on thousandths of a millisecond. So the one
 * that is lost is, in virtual time, the one that serves a request that the live loss hit, whatever its name.
 */
import type { VirtualRequest } from '../cluster/request.js'
import { VirtualCluster } from '../cluster/virtual-cluster.js'
import type { ClusterOptions } from '../cluster/world.js'
import type { PlayedRequest } from './validate-compare.js'
import { type ValidatePlan, WARM_UP } from './validate-plan.js'

/** What became of the plan's loss in the live run; milliseconds since it began. */
export interface PlayedLoss {
  /** Infinite where it never happened. */
  readonly lossAtMs: number
  /** When the device was there again; infinite where it never was. */
  readonly returnAtMs: number
  /** Requests that had to be placed anew. */
  readonly requestsHit: readonly string[]
}

/** A request of the warm-up has ended before the next one comes. */
const WARM_UP_EACH_MS = 10_000
/** Of the time of a message, in each of the plays. */
const MESSAGE_SHARES = [1, 0.6, 0.7, 0.8, 0.9, 1.1, 1.2, 1.3, 1.4]

/** @param requests as they were sent, in order of arrival */
export function playVirtually(
  plan: Pick<ValidatePlan, 'cluster' | 'lostDevice'>,
  requests: readonly VirtualRequest[],
  loss: PlayedLoss,
  seed: number,
): readonly (readonly PlayedRequest[])[] {
  const { cluster } = plan
  return MESSAGE_SHARES.map((share) =>
    playOnce(
      { ...plan, cluster: { ...cluster, messageMs: cluster.messageMs * share } },
      requests,
      loss,
      seed,
    ),
  )
}

function playOnce(
  { cluster, lostDevice }: Pick<ValidatePlan, 'cluster' | 'lostDevice'>,
  requests: readonly VirtualRequest[],
  loss: PlayedLoss,
  seed: number,
): readonly PlayedRequest[] {
  const warmUp = warmingRequests()
  const beginMs = (warmUp.length + 1) * WARM_UP_EACH_MS
  const played: PlayedRequest[] = []
  const decodedOn = new Map<string, string>()
  const onOutcome: ClusterOptions['onOutcome'] = ({ request, end, code, ...outcome }) => {
    const { requestId, promptTokens } = request
    decodedOn.delete(requestId)
    if (request.arrivalMs < beginMs) return
    const { firstTokenMs, endMs, tokens, placements, prefillDevice, decodeDevice } = outcome
    played.push({
      ...{ requestId, promptTokens, tokens, placements, prefillDevice, decodeDevice },
      arrivalMs: request.arrivalMs - beginMs,
      firstTokenMs: firstTokenMs - beginMs,
      lastTokenMs: endMs - beginMs,
      ...{ isFinished: end === 'finished', why: code },
    })
  }
  const virtual = new VirtualCluster(cluster, {
    seed,
    onOutcome,
    probe: {
      coordinator(_event, actions) {
        for (const action of actions)
          if (action.type === 'run') decodedOn.set(action.requestId, action.decode.deviceId)
      },
    },
  })
  const lose = () => {
    const kind = lostDevice.slice(0, lostDevice.lastIndexOf('-'))
    const hit = loss.requestsHit.map((requestId) => decodedOn.get(requestId))
    const lost = hit.find((device) => device?.startsWith(kind)) ?? lostDevice
    virtual.crash(lost)
    if (Number.isFinite(loss.returnAtMs)) virtual.at(beginMs + loss.returnAtMs, () => virtual.restart(lost))
  }
  if (Number.isFinite(loss.lossAtMs)) virtual.at(beginMs + loss.lossAtMs, lose)
  virtual.run([
    ...warmUp,
    ...requests.map((request) => ({ ...request, arrivalMs: request.arrivalMs + beginMs })),
  ])
  return played
}

function warmingRequests(): readonly VirtualRequest[] {
  const { requests, promptTokens, outputTokens } = WARM_UP
  return Array.from({ length: requests }, (_, index) => ({
    requestId: `warm-up-${index}`,
    // Devices have said what they are by then.
    arrivalMs: (index + 1) * WARM_UP_EACH_MS,
    ...{ promptTokens, outputTokens, blocks: [] },
  }))
}
