/** The first message of a Push: read within a deadline, checked before any memory is touched. */
import { HASH_BYTES } from '@kvasir/engine/text/block-hash'
import type { Lease, PushOpen, PushRequest } from '@kvasir/proto/kvasir/kv/v1/kv'
import { withDeadline } from '@kvasir/runtime/deferred'
import { InvalidInputError, NotFoundError, UnsupportedError } from '@kvasir/runtime/errors'
import { BLOCK_TOKENS } from './core/block-allocator.js'
import { type Device, modelOfLease } from './device.js'
import { hashText, variantKey } from './kv-index.js'
import type { ServedModel } from './served-model.js'
import { checkLease } from './validation.js'

/** The caller says at once what it wants. */
const OPEN_MS = 5_000

export interface CheckedPush {
  readonly served: ServedModel
  readonly lease: Lease
  readonly hashes: readonly string[]
}

/** Throws what the caller must do: InvalidInputError, LeaseExpiredError, NotFoundError, UnsupportedError. */
export async function readPushOpen(
  messages: AsyncIterator<PushRequest>,
  device: Device,
): Promise<CheckedPush> {
  const first = await withDeadline(messages.next(), OPEN_MS, 'waiting for PushOpen')
  const message = first.done === true ? undefined : first.value.message
  if (message?.$case !== 'open') {
    throw new InvalidInputError('The first message of a Push must be PushOpen.', { param: 'open' })
  }
  return checkPushOpen(message.value, device)
}

function checkPushOpen(open: PushOpen, device: Device): CheckedPush {
  const { modelDigest, variant, hashes } = open
  const lease = checkLease(open.lease, 'PushOpen')
  const served = modelOfLease(device, lease)
  const ids = { deviceId: device.deviceId }
  if (modelDigest !== served.model.digest) {
    throw new NotFoundError(
      `The lease is for another model than ${modelDigest.slice(0, 16)}; reserve one for the model whose blocks are pushed.`,
      { ids, param: 'model_digest' },
    )
  }
  if (variant === undefined || variantKey(variant) !== variantKey(served.variant)) {
    throw new UnsupportedError(
      `Device ${device.deviceId} keeps this model's blocks in another variant; push those that its advertisement names.`,
      { ids, param: 'variant' },
    )
  }
  const blocksMax = Math.floor(served.model.contextTokensMax / BLOCK_TOKENS)
  if (hashes.length < 1 || hashes.length > blocksMax || hashes.some(({ length }) => length !== HASH_BYTES)) {
    throw new InvalidInputError(
      `PushOpen.hashes must name 1 to ${blocksMax} blocks, ${HASH_BYTES} bytes each.`,
      { ids, param: 'hashes' },
    )
  }
  return { served, lease, hashes: hashes.map(hashText) }
}
