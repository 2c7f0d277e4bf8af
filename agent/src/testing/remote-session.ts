/**
 * Attention on another device for pages that nobody computed, for tests of the attending device alone: it is
 * to that device what a decoding one is, lease, transfer and all.
 */
import type { LoadedModelFacts } from '@kvasir/engine/device-driver'
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import {
  KvServiceClient,
  type KvServiceServer,
  type Lease,
  LeasePurpose,
  type PullRequest,
  type PullResponse,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import { type AttendMode, type AttendReady, MemoryServiceClient } from '@kvasir/proto/kvasir/memory/v1/memory'
import { startBulkServer } from '@kvasir/runtime/bulk-server'
import { systemClock } from '@kvasir/runtime/clock'
import { withDeadline } from '@kvasir/runtime/deferred'
import { InvalidInputError, UnsupportedError } from '@kvasir/runtime/errors'
import { KvBulkService } from '@kvasir/runtime/kv-bulk'
import { callUnary, createRpcClient } from '@kvasir/runtime/rpc-client'
import { bidi, clientStream, type Send, serverStream, unary } from '@kvasir/runtime/rpc-server'
import { shapeOf, variantOf } from '../kv-shape.js'
import { AGENT_LIMITS } from '../limits.js'
import { OutgoingTransfer } from '../outgoing-transfer.js'
import { Pacer } from '../pacer.js'
import type { Run } from '../ready-blocks.js'
import { RemoteAttentionCall } from '../remote-attention.js'

export interface RemoteSessionOptions {
  /** The attending device, with host:port of its control services. */
  readonly device: { readonly deviceId: string; readonly control: string }
  readonly model: LoadedModelFacts
  readonly pages: number
  readonly mode: AttendMode.PARTIAL | AttendMode.INDICES
  /** The bytes of a run of pages, in wire layout: K and V, or bounds. */
  read(run: Run): Uint8Array
}

export interface RemoteSession {
  /** What a driver asks. */
  readonly remote: RemoteAttentionCall
  readonly ready: AttendReady
  /** The attending device is free again soon after. */
  close(): Promise<void>
}

const REQUEST_ID = 'remote-session'
/** The pages of one sequence come within seconds. */
const READY_MS = 60_000

/** Resolves when the device holds the pages. Throws what it answers, with nothing left behind there or here. */
export async function startRemoteSession(options: RemoteSessionOptions): Promise<RemoteSession> {
  const { device, model, pages, mode } = options
  const transfer = outgoing(options)
  const source = await startBulkServer({
    host: '127.0.0.1',
    port: 0,
    services: [{ definition: KvBulkService, implementation: serving(transfer) }],
  })
  const kv = createRpcClient(KvServiceClient, device.control)
  const client = createRpcClient(MemoryServiceClient, device.control, { channelKey: 'attend' })
  let remote: RemoteAttentionCall | undefined
  const close = async () => {
    remote?.close()
    kv.close()
    client.close()
    await source.close()
  }
  try {
    remote = new RemoteAttentionCall({
      client,
      deviceId: device.deviceId,
      model,
      attendMs: AGENT_LIMITS.attendMs,
      open: {
        lease: await reserve(kv, options),
        requestId: REQUEST_ID,
        epoch: 1,
        modelDigest: model.digest,
        mode,
        pages,
        sourceEndpoint: source.address,
        sourceDeviceId: REQUEST_ID,
        transferId: transfer.id,
      },
    })
    const ready = await withDeadline(remote.ready, READY_MS, 'bringing the pages to the other device')
    return { remote, ready, close }
  } catch (error) {
    await close()
    throw error
  }
}

async function reserve(
  kv: KvServiceClient,
  { model, pages }: RemoteSessionOptions,
): Promise<Lease | undefined> {
  const { lease } = await callUnary(kv, 'reserve', {
    requestId: REQUEST_ID,
    epoch: 1,
    modelDigest: model.digest,
    tokens: pages * BLOCK_TOKENS,
    profile: Profile.EXACT,
    purpose: LeasePurpose.ATTEND,
  })
  return lease
}

function outgoing({ model, pages, read }: RemoteSessionOptions): OutgoingTransfer {
  const transfer = new OutgoingTransfer({
    transferId: REQUEST_ID,
    shape: shapeOf({ model, variant: variantOf(model, Profile.EXACT) }),
    tokens: pages * BLOCK_TOKENS,
    pacer: new Pacer(0, systemClock),
    mergeLayers: 1,
    clock: systemClock,
    acknowledgeMs: AGENT_LIMITS.acknowledgeMs,
    opened() {},
    pin: () => async (run) => [await read(run)],
    unpin() {},
  })
  transfer.admitted()
  transfer.present(pages * BLOCK_TOKENS)
  transfer.prefillEnded(0)
  return transfer
}

/** A KV endpoint with one transfer. */
function serving(transfer: OutgoingTransfer): KvServiceServer {
  const refuse = async (): Promise<never> => {
    throw new UnsupportedError('Only Pull is served here.')
  }
  return {
    reserve: unary(refuse),
    extend: unary(refuse),
    release: unary(refuse),
    snapshot: serverStream(refuse),
    offer: unary(refuse),
    push: clientStream(refuse),
    pull: bidi(async (incoming: AsyncIterable<PullRequest>, call, send: Send<PullResponse>) => {
      const messages = incoming[Symbol.asyncIterator]()
      const first = await messages.next()
      if (first.done === true || first.value.message?.$case !== 'open') {
        throw new InvalidInputError('The first message of a Pull must be PullOpen.', { param: 'open' })
      }
      const rest = { [Symbol.asyncIterator]: () => messages }
      await transfer.serve(first.value.message.value, rest, send, call.signal)
    }),
  }
}
