/** Looks through a workload before it is played, in a worker thread: is it right, how much is it, how long does it last. */
import type { Point } from '../study.js'
import { traceFacts } from '../workload/trace-file.js'
import { BEGIN_MS, requestsOf, type TraceWorkload, type Workload } from '../workload/workload.js'

export interface SurveyInput {
  readonly seed: number
  readonly blockTokens: number
  /** A trace's facts are not known yet. */
  readonly workload: Exclude<Workload, TraceWorkload> | Omit<TraceWorkload, 'facts'>
}

export interface Survey {
  readonly workload: Workload
  readonly requests: number
  /** From the first arrival to the last. */
  readonly spanMs: number
  readonly promptTokensMean: number
  readonly outputTokensMean: number
}

export const point: Point<SurveyInput, Survey> = ({ seed, blockTokens, workload: asked }) => {
  const workload: Workload = asked.kind === 'trace' ? { ...asked, facts: traceFacts(asked.source) } : asked
  let [requests, lastMs, promptTokens, outputTokens] = [0, BEGIN_MS, 0, 0]
  for (const request of requestsOf(workload, { seed, blockTokens, hasReuse: true })) {
    requests += 1
    lastMs = request.arrivalMs
    promptTokens += request.promptTokens
    outputTokens += request.outputTokens
  }
  return {
    ...{ workload, requests },
    spanMs: lastMs - BEGIN_MS,
    promptTokensMean: promptTokens / requests,
    outputTokensMean: outputTokens / requests,
  }
}
