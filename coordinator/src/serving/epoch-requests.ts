/**
 * What the devices of one epoch are asked for: the requests of its calls, from the request, the decision and
 * the leases that were granted.
 */
import type {
  DecodeRequest,
  KvSource,
  PrefillRequest,
  SequenceIdentity,
} from '@kvasir/proto/kvasir/inference/v1/inference'
import { type Lease, LeasePurpose, PullTiming, type ReserveRequest } from '@kvasir/proto/kvasir/kv/v1/kv'
import type { Decision } from '../core/decision.js'
import type { DeviceRef } from '../core/facts.js'
import type { GenerationRequest } from '../generation.js'
import { attentionMessage, offloadMessage } from './attention-calls.js'
import type { DeviceClients } from './device-clients.js'
import { profileMessage } from './device-facts.js'
import { cachedPrefix, prefixHashes, reuseMode } from './prefix-calls.js'

export interface EpochSubject {
  readonly request: GenerationRequest
  readonly decision: Decision
  readonly clients: DeviceClients
}

export function reserveRequest(subject: EpochSubject, purpose: LeasePurpose, tokens: number): ReserveRequest {
  const { request, decision } = subject
  return {
    requestId: request.requestId,
    epoch: decision.epoch,
    modelDigest: request.modelDigest,
    profile: profileMessage(decision.profile),
    tokens,
    prefix: prefixHashes(request),
    purpose,
  }
}

/** `tokens`: prompt and what was emitted before; `firstIndex`: how many those are. */
export function prefillRequest(subject: EpochSubject, tokens: number[], firstIndex: number): PrefillRequest {
  const { request, decision, clients } = subject
  return {
    sequence: identity(subject),
    transferId: transferId(subject),
    tokens,
    firstIndex,
    sampling: request.sampling,
    prefix: cachedPrefix(decision, clients),
    reuse: reuseMode(request),
    attention: attentionMessage(decision.attention),
  }
}

export interface DecodeStart {
  /** Prompt and what is prefilled behind it. */
  readonly tokens: number[]
  readonly firstIndex: number
  /** Tokens that are decoded again as they stand. */
  readonly replay: number[]
  /** Another device that prefills; null where the decoding one does. */
  readonly prefill: DeviceRef | null
}

export function decodeRequest(
  subject: EpochSubject,
  { tokens, firstIndex, replay, prefill }: DecodeStart,
  leases: ReadonlyMap<LeasePurpose, Lease>,
): DecodeRequest {
  const { request, decision, clients } = subject
  return {
    sequence: identity(subject),
    lease: leases.get(LeasePurpose.DECODE),
    tokens,
    firstIndex,
    maxTokens: request.maxTokens,
    sampling: request.sampling,
    source: prefill ? kvSource(subject, prefill) : undefined,
    prefix: prefill ? undefined : cachedPrefix(decision, clients),
    reuse: reuseMode(request),
    attention: attentionMessage(decision.attention),
    offload: offloadMessage(decision.attention, leases.get(LeasePurpose.ATTEND), clients),
    ...(replay.length === 0 ? {} : { replay: { tokens: replay } }),
  }
}

function kvSource(subject: EpochSubject, prefill: DeviceRef): KvSource {
  const { mergeLayers } = subject.request
  return {
    deviceId: prefill.deviceId,
    endpoint: subject.clients.kvEndpoint(prefill) ?? '',
    transferId: transferId(subject),
    timing: subject.request.pullTiming === 'after-prefill' ? PullTiming.AFTER_PREFILL : PullTiming.LAYERED,
    ...(mergeLayers === undefined ? {} : { mergeLayers }),
  }
}

function identity({ request, decision }: EpochSubject): SequenceIdentity {
  return {
    requestId: request.requestId,
    epoch: decision.epoch,
    modelDigest: request.modelDigest,
    profile: profileMessage(decision.profile),
    tenantSalt: Buffer.from(request.tenantSalt),
  }
}

function transferId({ request, decision }: EpochSubject): string {
  return `${request.requestId}.${decision.epoch}`
}
