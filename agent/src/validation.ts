/**
 * Checks what comes over gRPC before any work is done. Every fault names its field.
 */

import type { LoadedModelFacts } from '@kvasir/engine/device-driver'
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import type { SamplingParameters } from '@kvasir/engine/sampler'
import { HASH_BYTES } from '@kvasir/engine/text/block-hash'
import type {
  CachedPrefix,
  DecodeRequest,
  PrefillRequest,
  Sampling,
  SequenceIdentity,
} from '@kvasir/proto/kvasir/inference/v1/inference'
import type { Lease, OfferRequest, ReserveRequest } from '@kvasir/proto/kvasir/kv/v1/kv'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { mergeLayersOf } from './merge-layers.js'

const TOP_LOGPROBS_MAX = 20
/** As documented of OfferRequest. */
const OFFER_HASHES_MAX = 4_096

/** The value of a field that must be there. */
export function required<T>(value: T | undefined, message: string, field: string): T {
  if (value === undefined) throw missing(message, field)
  return value
}

export function checkIdentity(sequence: SequenceIdentity | undefined, message: string): SequenceIdentity {
  const identity = required(sequence, message, 'sequence')
  checkPlacement(identity, `${message}.sequence`)
  return identity
}

/** What names a placement of a request: in a SequenceIdentity and in a ReserveRequest. */
export function checkPlacement(
  request: Pick<ReserveRequest, 'requestId' | 'epoch' | 'modelDigest'>,
  message: string,
): void {
  if (request.requestId === '') throw missing(message, 'request_id')
  if (request.epoch < 1) throw invalid(`${message}.epoch must count from 1.`, 'epoch')
  if (request.modelDigest === '') throw missing(message, 'model_digest')
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

export function checkPrefill(request: PrefillRequest, model: LoadedModelFacts): SamplingParameters {
  if (request.transferId === '') throw missing('PrefillRequest', 'transfer_id')
  checkTokens(request.tokens, 'PrefillRequest', model)
  checkPrefix(request.prefix, 'PrefillRequest', request.tokens.length)
  return checkSampling(request.sampling, 'PrefillRequest')
}

export function checkDecode(request: DecodeRequest, model: LoadedModelFacts) {
  const lease = checkLease(request.lease, 'DecodeRequest')
  checkTokens(request.tokens, 'DecodeRequest', model)
  if (request.maxTokens <= request.firstIndex) {
    throw invalid('DecodeRequest.max_tokens must be greater than first_index.', 'max_tokens')
  }
  checkReplay(request, model)
  checkPrefix(request.prefix, 'DecodeRequest', request.tokens.length)
  const { source } = request
  if (source !== undefined) {
    if (source.deviceId === '') throw missing('DecodeRequest.source', 'device_id')
    if (source.endpoint === '') throw missing('DecodeRequest.source', 'endpoint')
    if (source.transferId === '') throw missing('DecodeRequest.source', 'transfer_id')
    mergeLayersOf(source.mergeLayers, 1, 'DecodeRequest.source')
  }
  return { lease, sampling: checkSampling(request.sampling, 'DecodeRequest'), source }
}

function checkReplay({ replay, firstIndex, maxTokens }: DecodeRequest, model: LoadedModelFacts): void {
  if (replay === undefined) return
  checkTokens(replay.tokens, 'DecodeRequest.replay', model)
  if (firstIndex !== 0) {
    throw invalid('DecodeRequest.replay begins with the first token; set first_index to 0.', 'first_index')
  }
  if (replay.tokens.length >= maxTokens) {
    throw invalid('DecodeRequest.max_tokens must be greater than the tokens of replay.', 'max_tokens')
  }
}

function checkPrefix(prefix: CachedPrefix | undefined, message: string, promptTokens: number): void {
  if (prefix === undefined) return
  const { tokens, deviceId, endpoint } = prefix
  if (tokens % BLOCK_TOKENS !== 0 || tokens >= promptTokens) {
    throw invalid(
      `${message}.prefix.tokens is ${tokens}; it must be a multiple of ${BLOCK_TOKENS} below the ${promptTokens} tokens of the sequence.`,
      'tokens',
    )
  }
  if (deviceId !== '' && endpoint === '') throw missing(`${message}.prefix`, 'endpoint')
}

/** The hashes, each of the right length. */
export function checkHashes<T extends Uint8Array>(hashes: readonly T[], message: string): readonly T[] {
  if (hashes.every(({ length }) => length === HASH_BYTES)) return hashes
  throw invalid(`${message}.hashes has one that is not of ${HASH_BYTES} bytes.`, 'hashes')
}

export function checkOffer(offer: OfferRequest): void {
  if (offer.deviceId === '') throw missing('OfferRequest', 'device_id')
  if (offer.endpoint === '') throw missing('OfferRequest', 'endpoint')
  if (offer.modelDigest === '') throw missing('OfferRequest', 'model_digest')
  if ((required(offer.variant, 'OfferRequest', 'variant').layers?.count ?? 0) < 1) {
    throw missing('OfferRequest.variant', 'layers')
  }
  if (offer.blockLayerBytes < 1n) throw missing('OfferRequest', 'block_layer_bytes')
  if (offer.hashes.length > OFFER_HASHES_MAX) {
    throw invalid(
      `OfferRequest.hashes has ${offer.hashes.length}; offer at most ${OFFER_HASHES_MAX} at a time.`,
      'hashes',
    )
  }
  checkHashes(offer.hashes, 'OfferRequest')
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
