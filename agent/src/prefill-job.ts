/**
 * One Prefill call: the prompt on this device, its KV on the way to another.
 *
 * Invariants:
 * P1 The stream says admitted, finished, kv_sent, in this order, each at most once.
 * P2 However the call ends, the sequence and its transfer end with it (I4).
 */
import { Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import type {
  PrefillRequest,
  PrefillResponse,
  PrefixReuse,
} from '@kvasir/proto/kvasir/inference/v1/inference'
import { AsyncQueue } from '@kvasir/runtime/deferred'
import { DeadlineError, KvasirError } from '@kvasir/runtime/errors'
import type { CallContext, Send } from '@kvasir/runtime/rpc-server'
import { ATTRIBUTE } from '@kvasir/runtime/telemetry-names'
import { context } from '@opentelemetry/api'
import { ableDriver, type Device, leaseOf, requestedModel } from './device.js'
import { RefusedByCore } from './device-runner.js'
import { runReader, shapeOf } from './kv-shape.js'
import { microseconds } from './microseconds.js'
import { OutgoingTransfer } from './outgoing-transfer.js'
import { PrefillSpan } from './prefill-span.js'
import { fetchableTokens, fetchPrefix, hashesOf, localReuse } from './prefix-reuse.js'
import { SendSpan } from './send-span.js'
import type { SequenceOwner } from './sequence-owner.js'
import { tokenMessage } from './token-message.js'
import { checkIdentity, checkPrefill } from './validation.js'

export async function runPrefill(
  device: Device,
  request: PrefillRequest,
  call: CallContext,
  send: Send<PrefillResponse>,
): Promise<void> {
  ableDriver(device, Capability.PREFILL)
  const identity = checkIdentity(request.sequence, 'PrefillRequest')
  const served = requestedModel(device, identity)
  const sampling = checkPrefill(request, served.model)
  const { clock } = device
  const { runner } = served
  const { tokens, prefix } = request
  const hashes = hashesOf(served, identity.tenantSalt, tokens, request.reuse)
  const fetchTokens = fetchableTokens(device, prefix, hashes)
  const id = runner.newSequenceId()
  const parent = context.active()
  const attributes = {
    [ATTRIBUTE.requestId]: identity.requestId,
    [ATTRIBUTE.epoch]: identity.epoch,
    [ATTRIBUTE.deviceId]: device.deviceId,
    [ATTRIBUTE.transferId]: request.transferId,
    [ATTRIBUTE.tokens]: tokens.length,
    ...(served.pace === undefined ? {} : { [ATTRIBUTE.pace]: served.pace.name }),
  }
  const arrivedAtMs = clock.nowMs()
  const messages = new AsyncQueue<PrefillResponse>(4)
  const run = new PrefillSpan(attributes, parent, clock)
  const sendSpan = new SendSpan(attributes, parent, clock)
  let counter = 0n
  let startedAtMs = arrivedAtMs
  let shareUs = 0
  let pullTimer: NodeJS.Timeout | undefined
  let reuse: PrefixReuse = localReuse(0)
  const over = new AbortController()

  const shape = shapeOf(served)
  const transfer = new OutgoingTransfer({
    shape,
    transferId: request.transferId,
    tokens: tokens.length,
    pacer: device.pacer,
    mergeLayers: device.mergeLayers,
    clock,
    acknowledgeMs: device.limits.acknowledgeMs,
    opened() {
      clearTimeout(pullTimer)
      sendSpan.opened()
    },
    pin() {
      runner.apply({ type: 'pin', counter })
      return runReader(served, runner.blocks(counter), tokens.length)
    },
    unpin: () => runner.apply({ type: 'unpin', counter }),
  })

  const owner: SequenceOwner = {
    admitted(leaseCounter, cachedTokens, tokensAhead) {
      counter = leaseCounter
      reuse = localReuse(cachedTokens)
      transfer.present(cachedTokens)
      transfer.admitted()
      const value = { lease: leaseOf(device, leaseCounter), tokensAhead: BigInt(tokensAhead) }
      messages.push({ event: { $case: 'admitted', value } })
      if (fetchTokens > cachedTokens) void bringPrefix(cachedTokens)
    },
    started() {
      startedAtMs = clock.nowMs()
    },
    layerComputed(layer, tokens) {
      run.layer()
      transfer.layerComputed(layer, tokens)
    },
    chunkComputed(ofStepUs) {
      shareUs += ofStepUs
    },
    sampled(token, index, stopped) {
      run.end()
      transfer.prefillEnded(token.id)
      const value = {
        token: stopped ? undefined : tokenMessage(token, index),
        stopped,
        queueUs: microseconds(startedAtMs - arrivedAtMs),
        computeUs: microseconds(clock.nowMs() - startedAtMs),
        computeShareUs: BigInt(Math.round(shareUs)),
        reuse,
      }
      messages.push({ event: { $case: 'finished', value } })
      if (transfer.claimed) return
      const giveUp = () => transfer.fail(noPull(device, request.transferId))
      pullTimer = setTimeout(giveUp, device.limits.pullMs)
    },
    ended(reason, error) {
      over.abort(served.ending(reason))
      if (reason !== 'sent') {
        const failure = error ?? served.ending(reason)
        run.end(failure)
        transfer.fail(failure)
        messages.fail(failure)
        return
      }
      const { bytes, chunks, busyUs, exposedUs } = transfer.times
      const { linkFactor } = shape
      const value = {
        bytes: BigInt(bytes),
        chunks: BigInt(chunks),
        busyUs: BigInt(busyUs),
        exposedUs: BigInt(exposedUs),
        ...(linkFactor === undefined ? {} : { modelledBytes: BigInt(Math.round(bytes * linkFactor)) }),
      }
      messages.push({ event: { $case: 'kvSent', value } })
      messages.end()
    },
  }

  const onGone = () => runner.cancel(id)
  try {
    device.transfers.offer(transfer)
    const { requestId, epoch } = identity
    const stopTokens = new Set(request.sampling?.stopTokens)
    runner.begin(
      {
        id,
        tokens: [...tokens],
        firstIndex: request.firstIndex,
        sampling,
        stopTokens,
        hashes,
        owner,
      },
      {
        type: 'prefill',
        sequence: id,
        requestId,
        epoch,
        promptTokens: tokens.length,
        hashes: hashes?.prompt ?? [],
        fetchTokens,
      },
    )
    call.signal.addEventListener('abort', onGone, { once: true })
    if (call.signal.aborted) onGone()
    transfer.done.promise.then(
      () => {
        sendSpan.end(transfer)
        runner.apply({ type: 'sent', sequence: id, blocks: transfer.blocksSent })
      },
      (error: unknown) => {
        sendSpan.end(transfer, error)
        runner.fail(id, KvasirError.from(error))
      },
    )
    for await (const message of messages) await send(message)
  } catch (thrown) {
    const error = thrown instanceof RefusedByCore ? served.refusal(thrown.reason) : KvasirError.from(thrown)
    run.end(error)
    // A receiver may wait for it already.
    transfer.fail(error)
    throw error
  } finally {
    clearTimeout(pullTimer)
    call.signal.removeEventListener('abort', onGone)
    device.transfers.withdraw(transfer)
    runner.cancel(id)
    run.end()
  }

  /** Brings in what another device has of the prompt, then lets the sequence go on. */
  async function bringPrefix(localTokens: number): Promise<void> {
    if (prefix === undefined || hashes === undefined) return
    const { signal } = over
    reuse = await fetchPrefix({
      device,
      served,
      counter,
      localTokens,
      prefix,
      hashes,
      signal,
      attributes,
      parent,
    })
    if (signal.aborted) return
    const here = localTokens + reuse.fetchedTokens
    transfer.present(here)
    runner.apply({ type: 'fetched', sequence: id, tokens: here })
  }
}

function noPull(device: Device, transferId: string): KvasirError {
  return new DeadlineError(
    `No device pulled the KV of transfer ${transferId} within ${device.limits.pullMs} ms; place the request anew.`,
    { ids: { deviceId: device.deviceId, transferId } },
  )
}
