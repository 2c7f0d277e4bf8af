/**
 * KvService as gRPC sees it: Reserve, Extend, Release, Snapshot on the control
 * connection; Pull alone on the KV connection, so that bulk data never delays control.
 */
import { Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { KvServiceServer, PullRequest, PullResponse } from '@kvasir/proto/kvasir/kv/v1/kv'
import { withDeadline } from '@kvasir/runtime/deferred'
import { InvalidInputError, UnsupportedError } from '@kvasir/runtime/errors'
import { bidi, type CallContext, type Send, serverStream, unary } from '@kvasir/runtime/rpc-server'
import type { CoreEvent } from './core/events.js'
import { type Device, leaseOf, loadedDevice } from './device.js'
import { type Answer, RefusedByCore } from './device-runner.js'
import { refusalError } from './refusals.js'
import { checkLease, checkPlacement, checkRoom, required } from './validation.js'

/** Hashes in one message of a snapshot. */
const SNAPSHOT_HASHES_MAX = 4_096
/** The caller of Pull says what it wants at once. */
const OPEN_MS = 5_000

export function kvControlService(device: Device): KvServiceServer {
  const ask = (event: CoreEvent): Answer => {
    try {
      return device.runner.apply(event)
    } catch (thrown) {
      throw thrown instanceof RefusedByCore ? refusalError(thrown.reason, device.deviceId) : thrown
    }
  }
  return {
    reserve: unary(async (request) => {
      const { model } = loadedDevice(device, Capability.DECODE)
      checkPlacement(request, 'ReserveRequest', model)
      checkRoom(request.tokens, 'ReserveRequest', model)
      const { requestId, epoch, tokens } = request
      const answer = ask({ type: 'reserve', requestId, epoch, tokens })
      if (answer?.type !== 'granted') throw new Error('The core did not answer Reserve')
      return { lease: leaseOf(device, answer.counter), tokens: answer.tokens }
    }),
    extend: unary(async (request) => {
      const lease = checkLease(request.lease, 'ExtendRequest')
      checkRoom(request.tokens, 'ExtendRequest', loadedDevice(device).model)
      const answer = ask({ type: 'extend', lease, tokens: request.tokens })
      if (answer?.type !== 'granted') throw new Error('The core did not answer Extend')
      return { tokens: answer.tokens }
    }),
    release: unary(async (request) => {
      const answer = ask({ type: 'release', lease: checkLease(request.lease, 'ReleaseRequest') })
      return { wasAlive: answer?.type === 'released' && answer.wasAlive }
    }),
    snapshot: serverStream(async (_request, _call, send) => {
      const { variant } = loadedDevice(device)
      const { sequence, hashes } = device.index.snapshot()
      for (let from = 0; from === 0 || from < hashes.length; from += SNAPSHOT_HASHES_MAX) {
        const part = hashes.slice(from, from + SNAPSHOT_HASHES_MAX).map((hash) => Buffer.from(hash))
        await send({ incarnation: device.incarnation, sequence, hashes: part, variant })
      }
    }),
    offer: unary(async () => {
      throw elsewhere(device, 'Blocks are not taken in by this kind')
    }),
    pull: bidi(async () => {
      throw elsewhere(device, 'Pull is served on the KV endpoint')
    }),
  }
}

export function kvTransferService(device: Device): KvServiceServer {
  const refuse = async (): Promise<never> => {
    throw elsewhere(device, 'Only Pull is served on the KV endpoint')
  }
  return {
    reserve: unary(refuse),
    extend: unary(refuse),
    release: unary(refuse),
    snapshot: serverStream(refuse),
    offer: unary(refuse),
    pull: bidi((incoming, call, send) => servePull(device, incoming, call, send)),
  }
}

async function servePull(
  device: Device,
  incoming: AsyncIterable<PullRequest>,
  call: CallContext,
  send: Send<PullResponse>,
): Promise<void> {
  loadedDevice(device)
  const messages = incoming[Symbol.asyncIterator]()
  const first = await withDeadline(messages.next(), OPEN_MS, 'waiting for PullOpen')
  const message = first.done === true ? undefined : first.value.message
  if (message?.$case !== 'open') {
    throw new InvalidInputError('The first message of a Pull must be PullOpen.', { param: 'open' })
  }
  const open = message.value
  if (open.transferId === '') {
    throw new InvalidInputError('PullOpen.transfer_id is missing; set it.', { param: 'transfer_id' })
  }
  required(open.receiverLease, 'PullOpen', 'receiver_lease')
  const transfer = await device.transfers.claim(open.transferId, call.signal)
  await transfer.serve(open, { [Symbol.asyncIterator]: () => messages }, send, call.signal)
}

function elsewhere(device: Device, where: string): UnsupportedError {
  return new UnsupportedError(
    `${where} of device ${device.deviceId}; take the endpoints from its advertisement.`,
    {
      ids: { deviceId: device.deviceId },
    },
  )
}
