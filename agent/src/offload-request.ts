/** Checks what a DecodeRequest says of attention, its own and another device's. Every fault names its field. */
import type { AttentionBudget } from '@kvasir/engine/attention-budget'
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import type { DecodeRequest } from '@kvasir/proto/kvasir/inference/v1/inference'
import { AttendMode } from '@kvasir/proto/kvasir/memory/v1/memory'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { checkAttention } from './attend-budget.js'
import type { OffloadTarget } from './offload.js'
import { checkLease } from './validation.js'

export interface AttentionRequest {
  /** Undefined for dense attention. */
  readonly budget: AttentionBudget | undefined
  /** Of its sampling. */
  readonly seed: bigint
  /** Undefined where all attention is this device's own. */
  readonly offload: (OffloadTarget & { readonly pages: number }) | undefined
}

/** `deviceId`: this device's. */
export function checkAttentionRequest(request: DecodeRequest, deviceId: string): AttentionRequest {
  const seed = request.sampling?.seed ?? 0n
  const budget = checkAttention(request.attention, 'DecodeRequest')
  const { offload } = request
  if (offload === undefined) return { budget, seed, offload: undefined }
  if (offload.deviceId === '') throw wrong('device_id is missing; set it.', 'device_id')
  if (offload.endpoint === '') throw wrong('endpoint is missing; set it.', 'endpoint')
  if (offload.deviceId === deviceId) {
    throw wrong('names this device itself; leave it out to attend here.', 'device_id')
  }
  if (budget !== undefined && budget.method !== 'page-bounds') {
    throw wrong(
      `cannot choose ${budget.method} pages, which are chosen where decoding runs; leave it out.`,
      'method',
    )
  }
  const { mode } = offload
  if (mode !== AttendMode.PARTIAL && mode !== AttendMode.INDICES) {
    throw wrong('mode must be partial or indices.', 'mode')
  }
  const pages = Math.floor(request.tokens.length / BLOCK_TOKENS)
  if (pages < 1) {
    throw wrong(
      `has no page to offload: the prompt has ${request.tokens.length} tokens; leave it out.`,
      'tokens',
    )
  }
  const lease = checkLease(offload.lease, 'DecodeRequest.offload')
  const { deviceId: target, endpoint } = offload
  return { budget, seed, offload: { deviceId: target, endpoint, lease, mode, pages } }
}

function wrong(sentence: string, field: string): InvalidInputError {
  return new InvalidInputError(`DecodeRequest.offload ${sentence}`, { param: `offload.${field}` })
}
