/** A request as the core keeps it, of one that was submitted. */
import { type Admission, boundedPriority } from './admission.js'
import type { OrderPolicy } from './policies/order-policy.js'
import type { Submission } from './protocol.js'
import type { Request } from './request.js'
import type { RequestLimits } from './request-limits.js'

/** `arrival`: counts submissions. */
export function newRequest(
  asked: Submission,
  arrival: number,
  admission: Admission,
  order: OrderPolicy,
  limits: RequestLimits,
  nowMs: number,
): Request {
  const { requestId, modelDigest, profile, promptTokens, maxTokens, blockHashes, attention } = asked
  const line = `${modelDigest}/${profile}`
  const workTokens = promptTokens + admission.answerTokens(line, maxTokens)
  const placeByMs = nowMs + limits.placementDeadlineMs
  const ttftDueMs = nowMs + admission.deadlineMs(asked)
  const judged = { line, modelDigest, profile, promptTokens, workTokens }
  return {
    requestId,
    arrival,
    submittedAtMs: nowMs,
    line,
    tenant: asked.tenant ?? '',
    priority: boundedPriority(asked.priority),
    workTokens,
    orderKey: order.key({
      arrival,
      dueMs: Number.isFinite(ttftDueMs) ? ttftDueMs : placeByMs,
      prefillMs: () => admission.prefillMs(judged, nowMs),
      workTokens,
    }),
    modelDigest,
    profile,
    promptTokens,
    maxTokens,
    blockHashes,
    attention,
    attentionSettled: null,
    deadlineMs: nowMs + limits.requestDeadlineMs,
    ttftDueMs,
    stuck: null,
    waitCause: 'none',
    tokensAhead: 0,
    isCharged: false,
    state: 'queued',
    hasBegun: false,
    emitted: 0,
    epochs: 0,
    epoch: null,
    placeByMs,
    judgedAtMs: nowMs,
    progressByMs: Number.POSITIVE_INFINITY,
    failures: 0,
    movedBecause: null,
    avoided: new Map(),
  }
}
