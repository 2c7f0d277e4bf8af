/**
 * KvService as gRPC sees it: Reserve, Extend, Release, Snapshot, Offer on the control
 * connection; Pull and Push on the KV connection, so that bulk data never delays control.
 */
import { Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import {
  type KvServiceServer,
  LeasePurpose,
  type PullRequest,
  type PullResponse,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import { withDeadline } from '@kvasir/runtime/deferred'
import { InvalidInputError, UnsupportedError } from '@kvasir/runtime/errors'
import {
  bidi,
  type CallContext,
  clientStream,
  type Send,
  serverStream,
  unary,
} from '@kvasir/runtime/rpc-server'
import { CachedPulls } from './cached-pull.js'
import type { CoreEvent } from './core/events.js'
import { ableDriver, type Device, leaseOf, modelOfLease, requestedModel } from './device.js'
import { type Answer, RefusedByCore } from './device-runner.js'
import { hashBytes, hashText } from './kv-index.js'
import { receivePush } from './push-job.js'
import type { ServedModel } from './served-model.js'
import { checkHashes, checkLease, checkOffer, checkPlacement, checkRoom, required } from './validation.js'

/** Hashes in one message of a snapshot. */
const SNAPSHOT_HASHES_MAX = 4_096
/** The caller of Pull says what it wants at once. */
const OPEN_MS = 5_000

export function kvControlService(device: Device): KvServiceServer {
  return {
    reserve: unary(async (request) => {
      const purpose = request.purpose === LeasePurpose.ATTEND ? 'attend' : 'decode'
      ableDriver(device, purpose === 'attend' ? Capability.ATTEND : Capability.DECODE)
      checkPlacement(request, 'ReserveRequest')
      const served = requestedModel(device, request)
      checkRoom(request.tokens, 'ReserveRequest', served.model)
      const { requestId, epoch, tokens, prefix } = request
      const hashes = checkHashes(prefix?.hashes ?? [], 'ReserveRequest.prefix').map(hashText)
      const answer = ask(served, { type: 'reserve', requestId, epoch, tokens, hashes, purpose })
      if (answer?.type !== 'granted') throw new Error('The core did not answer Reserve')
      const { counter, cachedTokens } = answer
      return { lease: leaseOf(device, counter), tokens: answer.tokens, cachedTokens }
    }),
    extend: unary(async (request) => {
      const lease = checkLease(request.lease, 'ExtendRequest')
      const served = modelOfLease(device, lease)
      checkRoom(request.tokens, 'ExtendRequest', served.model)
      const answer = ask(served, { type: 'extend', lease, tokens: request.tokens })
      if (answer?.type !== 'granted') throw new Error('The core did not answer Extend')
      return { tokens: answer.tokens }
    }),
    release: unary(async (request) => {
      const lease = checkLease(request.lease, 'ReleaseRequest')
      const answer = ask(modelOfLease(device, lease), { type: 'release', lease })
      return { wasAlive: answer?.type === 'released' && answer.wasAlive }
    }),
    snapshot: serverStream(async (_request, _call, send) => {
      const { sequence, parts } = device.index.snapshot()
      const { incarnation } = device
      if (parts.length === 0) {
        await send({ incarnation, sequence, hashes: [], variant: device.models.all[0]?.variant })
      }
      for (const { variant, hashes } of parts) {
        for (let from = 0; from === 0 || from < hashes.length; from += SNAPSHOT_HASHES_MAX) {
          const part = hashes.slice(from, from + SNAPSHOT_HASHES_MAX).map(hashBytes)
          await send({ incarnation, sequence, hashes: part, variant })
        }
      }
    }),
    offer: unary(async (request) => {
      checkOffer(request)
      return { wanted: (await device.holder.offered(request)).map(hashBytes) }
    }),
    pull: bidi(async () => {
      throw elsewhere(device, 'Pull is served on the KV endpoint')
    }),
    push: clientStream(async () => {
      throw elsewhere(device, 'Push is served on the KV endpoint')
    }),
  }
}

/** Throws what the refusal means to the caller. */
function ask(served: ServedModel, event: CoreEvent): Answer {
  try {
    return served.runner.apply(event)
  } catch (thrown) {
    throw thrown instanceof RefusedByCore ? served.refusal(thrown.reason) : thrown
  }
}

export function kvTransferService(device: Device): KvServiceServer {
  const cached = new CachedPulls(device)
  const refuse = async (): Promise<never> => {
    throw elsewhere(device, 'Only Pull and Push are served on the KV endpoint')
  }
  return {
    reserve: unary(refuse),
    extend: unary(refuse),
    release: unary(refuse),
    snapshot: serverStream(refuse),
    offer: unary(refuse),
    pull: bidi((incoming, call, send) => servePull(device, cached, incoming, call, send)),
    push: clientStream((incoming, call) => receivePush(device, incoming, call.signal)),
  }
}

async function servePull(
  device: Device,
  cached: CachedPulls,
  incoming: AsyncIterable<PullRequest>,
  call: CallContext,
  send: Send<PullResponse>,
): Promise<void> {
  const messages = incoming[Symbol.asyncIterator]()
  const first = await withDeadline(messages.next(), OPEN_MS, 'waiting for PullOpen')
  const message = first.done === true ? undefined : first.value.message
  if (message?.$case !== 'open') {
    throw new InvalidInputError('The first message of a Pull must be PullOpen.', { param: 'open' })
  }
  const open = message.value
  const rest = { [Symbol.asyncIterator]: () => messages }
  required(open.receiverLease, 'PullOpen', 'receiver_lease')
  if (open.cached !== undefined) {
    await cached.serve(open, rest, send, call.signal)
    return
  }
  if (open.transferId === '') {
    throw new InvalidInputError('PullOpen.transfer_id is missing; set it.', { param: 'transfer_id' })
  }
  const transfer = await device.transfers.claim(open.transferId, call.signal)
  await transfer.serve(open, rest, send, call.signal)
}

function elsewhere(device: Device, where: string): UnsupportedError {
  return new UnsupportedError(
    `${where} of device ${device.deviceId}; take the endpoints from its advertisement.`,
    {
      ids: { deviceId: device.deviceId },
    },
  )
}
