/**
 * How the prompt's KV of a Decode call gets into its blocks: pulled from the device that prefills, or, where
 * this device prefills, fetched as far as another one has it cached.
 *
 * Invariant: none of these rejects; the sequence goes on or fails by itself.
 */
import type { DecodeRequest } from '@kvasir/proto/kvasir/inference/v1/inference'
import { AttentionMethod, type KvSource } from '@kvasir/proto/kvasir/inference/v1/inference'
import { PullContent, PullTiming } from '@kvasir/proto/kvasir/kv/v1/kv'
import { KvasirError } from '@kvasir/runtime/errors'
import { recordError, startSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import type { Attributes } from '@opentelemetry/api'
import { BLOCK_TOKENS } from './core/block-allocator.js'
import type { DecodeOwner } from './decode-owner.js'
import { type Device, leaseOf } from './device.js'
import type { HashChain } from './hash-chain.js'
import { pullKv } from './incoming-transfer.js'
import { runWriter, shapeOf } from './kv-shape.js'
import { fetchPrefix, localReuse } from './prefix-reuse.js'
import type { ServedModel } from './served-model.js'

export interface DecodeKv {
  readonly device: Device
  readonly served: ServedModel
  /** The sequence. */
  readonly id: number
  readonly request: DecodeRequest
  /** The lease that holds its blocks. */
  readonly counter: bigint
  /** Leading tokens whose KV is in the blocks. */
  readonly cachedTokens: number
  readonly hashes: HashChain | undefined
  readonly owner: DecodeOwner
  readonly attributes: Attributes
}

/** Brings what another device has cached of the prompt, then lets this one compute the rest. */
export async function fetchForDecode(kv: DecodeKv): Promise<void> {
  const { device, served, id, request, counter, cachedTokens: localTokens, hashes, owner, attributes } = kv
  const { prefix } = request
  if (prefix === undefined || hashes === undefined) return
  const { signal } = owner.over
  const { parent } = owner
  owner.reuse = await fetchPrefix({
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
  served.runner.apply({ type: 'fetched', sequence: id, tokens: localTokens + owner.reuse.fetchedTokens })
}

/** Brings the prompt's KV, from the first block that is missing, then lets the sequence decode. */
export async function receiveForDecode(kv: DecodeKv, source: KvSource): Promise<void> {
  const { device, served, id, request, counter, cachedTokens, owner, attributes } = kv
  const { clock, limits } = device
  const { runner } = served
  if (owner.over.signal.aborted) return
  owner.reuse = localReuse(cachedTokens)
  const span = startSpan(
    SPAN.kvReceive,
    { ...attributes, [ATTRIBUTE.transferId]: source.transferId, [ATTRIBUTE.cachedTokens]: cachedTokens },
    owner.parent,
  )
  runner.apply({ type: 'pin', counter })
  let pinned = true
  const unpin = () => {
    if (pinned) runner.apply({ type: 'unpin', counter })
    pinned = false
  }
  try {
    const received = await pullKv({
      client: device.kvClient(source.endpoint),
      sourceDeviceId: source.deviceId,
      wanted: {
        transferId: source.transferId,
        timing: source.timing === PullTiming.AFTER_PREFILL ? source.timing : PullTiming.LAYERED,
        tokens: request.tokens.length,
        firstBlock: Math.ceil(cachedTokens / BLOCK_TOKENS),
        content: contentFor(request),
        mergeLayers: source.mergeLayers,
      },
      shape: shapeOf(served),
      lease: leaseOf(device, counter),
      windowBytes: limits.windowBytes,
      write: runWriter(served.driver, runner.blocks(counter)),
      link: device.arrivalPacer,
      clock,
      silenceMs: limits.silenceMs,
      signal: owner.over.signal,
    })
    const { bytes, chunks, mergeLayers, elapsedUs } = received
    span.setAttributes({
      [ATTRIBUTE.kvBytes]: bytes,
      [ATTRIBUTE.kvChunks]: chunks,
      [ATTRIBUTE.kvMergeLayers]: mergeLayers,
      [ATTRIBUTE.kvBytesPerSecond]: elapsedUs === 0 ? 0 : Math.round(bytes / (elapsedUs / 1e6)),
    })
    span.end()
    unpin()
    if (owner.over.signal.aborted) return
    owner.received(received)
    runner.received(id, received.firstToken)
  } catch (thrown) {
    recordError(span, thrown)
    span.end()
    unpin()
    runner.fail(id, KvasirError.from(thrown))
  }
}

/** Where pages are chosen by their bounds, these come from the device that prefills, which prepares them. */
function contentFor({ attention }: DecodeRequest): PullContent {
  return attention?.method === AttentionMethod.PAGE_BOUNDS ? PullContent.KV_AND_BOUNDS : PullContent.KV
}
