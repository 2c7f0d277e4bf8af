/**
 * Checks what comes over gRPC before any work is done. Every fault names its field.
 */
import type { LoadedModelFacts } from '@kvasir/engine/device-driver'
import type { SamplingParameters } from '@kvasir/engine/sampler'
import { Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import type {
  DecodeRequest,
  PrefillRequest,
  Sampling,
  SequenceIdentity,
} from '@kvasir/proto/kvasir/inference/v1/inference'
import type { Lease, ReserveRequest } from '@kvasir/proto/kvasir/kv/v1/kv'
import { InvalidInputError, NotFoundError, UnsupportedError } from '@kvasir/runtime/errors'

const TOP_LOGPROBS_MAX = 20

/** The value of a field that must be there. */
export function required<T>(value: T | undefined, message: string, field: string): T {
  if (value === undefined) throw missing(message, field)
  return value
}

export function checkIdentity(
  sequence: SequenceIdentity | undefined,
  message: string,
  model: LoadedModelFacts,
): SequenceIdentity {
  const identity = required(sequence, message, 'sequence')
  checkPlacement(identity, `${message}.sequence`, model)
  return identity
}

/** What names a placement of a request: in a SequenceIdentity and in a ReserveRequest. */
export function checkPlacement(
  request: Pick<ReserveRequest, 'requestId' | 'epoch' | 'modelDigest' | 'profile'>,
  message: string,
  model: LoadedModelFacts,
): void {
  if (request.requestId === '') throw missing(message, 'request_id')
  if (request.epoch < 1) throw invalid(`${message}.epoch must count from 1.`, 'epoch')
  if (request.modelDigest === '') throw missing(message, 'model_digest')
  if (request.modelDigest !== model.digest) {
    throw new NotFoundError(
      `This device has no model with digest ${request.modelDigest.slice(0, 16)}; choose one that its advertisement names.`,
      { param: 'model_digest' },
    )
  }
  if (request.profile === Profile.UNSPECIFIED) throw missing(message, 'profile')
  if (request.profile !== Profile.EXACT) {
    throw new UnsupportedError('This device computes in profile exact only; choose another device.', {
      param: 'profile',
    })
  }
}

export function checkTokens(tokens: readonly number[], message: string, model: LoadedModelFacts): void {
  if (tokens.length === 0) throw invalid(`${message}.tokens is empty; send at least one token.`, 'tokens')
  if (tokens.length >= model.contextTokensMax) {
    throw invalid(
      `${message}.tokens has ${tokens.length} tokens, but the model's context holds ${model.contextTokensMax} with the answer; shorten the prompt.`,
      'tokens',
    )
  }
  const outside = tokens.find((token) => token >= model.vocabularySize)
  if (outside !== undefined) {
    throw invalid(
      `${message}.tokens has ${outside}, but the vocabulary ends at ${model.vocabularySize - 1}.`,
      'tokens',
    )
  }
}

export function checkSampling(sampling: Sampling | undefined, message: string): SamplingParameters {
  const { temperature, topP, topK, seed, logprobs, topLogprobs } = required(sampling, message, 'sampling')
  if (!Number.isFinite(temperature) || temperature < 0) {
    throw invalid(`${message}.sampling.temperature must be 0 or more.`, 'temperature')
  }
  if (!(topP > 0 && topP <= 1))
    throw invalid(`${message}.sampling.top_p must be above 0 and at most 1.`, 'top_p')
  if (topLogprobs > TOP_LOGPROBS_MAX) {
    throw invalid(`${message}.sampling.top_logprobs must be at most ${TOP_LOGPROBS_MAX}.`, 'top_logprobs')
  }
  return { temperature, topP, topK, seed, logprobs, topLogprobs }
}

export function checkPrefill(request: PrefillRequest, model: LoadedModelFacts) {
  const identity = checkIdentity(request.sequence, 'PrefillRequest', model)
  if (request.transferId === '') throw missing('PrefillRequest', 'transfer_id')
  checkTokens(request.tokens, 'PrefillRequest', model)
  return { identity, sampling: checkSampling(request.sampling, 'PrefillRequest') }
}

export function checkDecode(request: DecodeRequest, model: LoadedModelFacts) {
  const identity = checkIdentity(request.sequence, 'DecodeRequest', model)
  const lease = checkLease(request.lease, 'DecodeRequest')
  checkTokens(request.tokens, 'DecodeRequest', model)
  if (request.maxTokens <= request.firstIndex) {
    throw invalid('DecodeRequest.max_tokens must be greater than first_index.', 'max_tokens')
  }
  const { source } = request
  if (source !== undefined) {
    if (source.deviceId === '') throw missing('DecodeRequest.source', 'device_id')
    if (source.endpoint === '') throw missing('DecodeRequest.source', 'endpoint')
    if (source.transferId === '') throw missing('DecodeRequest.source', 'transfer_id')
  }
  return { identity, lease, sampling: checkSampling(request.sampling, 'DecodeRequest'), source }
}

export function checkLease(lease: Lease | undefined, message: string): Lease {
  const { deviceId, incarnation, counter } = required(lease, message, 'lease')
  if (deviceId === '') throw missing(`${message}.lease`, 'device_id')
  if (incarnation === 0n) throw missing(`${message}.lease`, 'incarnation')
  if (counter === 0n) throw missing(`${message}.lease`, 'counter')
  return { deviceId, incarnation, counter, ttlMs: 0 }
}

export function checkRoom(tokens: number, message: string, model: LoadedModelFacts): void {
  if (tokens < 1) throw invalid(`${message}.tokens must be at least 1.`, 'tokens')
  if (tokens > model.contextTokensMax) {
    throw invalid(
      `${message}.tokens is beyond the model's context of ${model.contextTokensMax} tokens.`,
      'tokens',
    )
  }
}

function missing(message: string, field: string): InvalidInputError {
  return new InvalidInputError(`${message}.${field} is missing; set it.`, { param: field })
}

function invalid(sentence: string, field: string): InvalidInputError {
  return new InvalidInputError(sentence, { param: field })
}
