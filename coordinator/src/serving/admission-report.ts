/** What a request's report says of its wait for the first place. */
import type { WaitNote } from '../core/protocol.js'
import type { AdmissionReport, GenerationRequest } from '../generation.js'
import { roundMs } from '../round-ms.js'

const CAUSE_TEXT: Readonly<Record<Exclude<WaitNote['cause'], 'none'>, string>> = {
  others: 'others came first',
  room: 'no device had room',
  prompts: 'prompts before it waited on the devices',
}

/** `wait`: undefined before the request has its first place. `isOver`: it has ended. */
export function admissionReport(
  { priority = 0, ttftDeadlineMs }: Pick<GenerationRequest, 'priority' | 'ttftDeadlineMs'>,
  wait: WaitNote | undefined,
  isOver: boolean,
): AdmissionReport {
  return {
    priority,
    ttftDeadlineMs: ttftDeadlineMs ?? null,
    waitedMs: wait ? roundMs(wait.waitedMs) : null,
    tokensAhead: Math.round(wait?.tokensAhead ?? 0),
    reason: reasonOf(priority, wait, isOver),
  }
}

function reasonOf(priority: number, wait: WaitNote | undefined, isOver: boolean): string {
  if (!wait) return isOver ? 'It was given no place.' : 'It waits for a place.'
  if (wait.cause === 'none') return 'It did not wait: devices had room at once.'
  const order = `in the order of priority (${priority}), tenants' shares and the coordinator's policy`
  const ahead =
    wait.tokensAhead > 0
      ? `; work of about ${Math.round(wait.tokensAhead)} tokens was before it, ${order}`
      : ''
  return `It waited because ${CAUSE_TEXT[wait.cause]}${ahead}.`
}
