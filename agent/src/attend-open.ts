/**
 * The first message of an Attend stream: read within a deadline, checked before any work is done.
 */

import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { HASH_BYTES } from '@kvasir/engine/text/block-hash'
import type { Lease } from '@kvasir/proto/kvasir/kv/v1/kv'
import { AttendMode, type AttendOpen, type AttendRequest } from '@kvasir/proto/kvasir/memory/v1/memory'
import { withDeadline } from '@kvasir/runtime/deferred'
import { InvalidInputError, NotFoundError } from '@kvasir/runtime/errors'
import type { ServedModel } from './served-model.js'
import { checkLease } from './validation.js'

/** The caller says at once what it wants. */
const OPEN_MS = 5_000
const REQUIRED = ['requestId', 'sourceEndpoint', 'sourceDeviceId', 'transferId'] as const

export interface CheckedOpen extends AttendOpen {
  readonly lease: Lease
  readonly mode: AttendMode.PARTIAL | AttendMode.INDICES
}

/** `modelOf`: the model that issued a lease; throws where none did. */
export async function readAttendOpen(
  messages: AsyncIterator<AttendRequest>,
  modelOf: (lease: Lease) => ServedModel,
): Promise<{ readonly open: CheckedOpen; readonly served: ServedModel }> {
  const first = await withDeadline(messages.next(), OPEN_MS, 'waiting for AttendOpen')
  const message = first.done === true ? undefined : first.value.message
  if (message?.$case !== 'open') {
    throw new InvalidInputError('The first message of an Attend must be AttendOpen.', { param: 'open' })
  }
  const served = modelOf(checkLease(message.value.lease, 'AttendOpen'))
  return { open: checkAttendOpen(message.value, served), served }
}

/** Throws InvalidInputError for a field that is missing or wrong, NotFoundError for another model. */
function checkAttendOpen(open: AttendOpen, { model }: ServedModel): CheckedOpen {
  for (const field of REQUIRED)
    if (open[field] === '') throw invalid(`${snake(field)} is missing; set it.`, field)
  if (open.epoch < 1) throw invalid('epoch must count from 1.', 'epoch')
  if (open.modelDigest !== model.digest) {
    throw new NotFoundError(
      `The lease is for the model ${model.name}, not for one with digest ${open.modelDigest.slice(0, 16)}; reserve memory for that one.`,
      { param: 'model_digest' },
    )
  }
  const pagesMax = Math.floor(model.contextTokensMax / BLOCK_TOKENS)
  if (open.pages < 1 || open.pages > pagesMax) {
    throw invalid(`pages must be 1 to ${pagesMax}, what the model's context holds.`, 'pages')
  }
  const { mode } = open
  if (mode !== AttendMode.PARTIAL && mode !== AttendMode.INDICES) {
    throw invalid('mode must be partial or indices.', 'mode')
  }
  const hashes = open.prefix?.hashes ?? []
  if (hashes.length > open.pages || hashes.some(({ length }) => length !== HASH_BYTES)) {
    throw invalid(`prefix must have at most one hash of ${HASH_BYTES} bytes for each page.`, 'prefix')
  }
  return { ...open, mode, lease: checkLease(open.lease, 'AttendOpen') }
}

function invalid(sentence: string, field: string): InvalidInputError {
  return new InvalidInputError(`AttendOpen.${sentence}`, { param: snake(field) })
}

function snake(field: string): string {
  return field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}
