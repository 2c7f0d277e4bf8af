/**
 * Brings in the cached blocks of a prompt that another device or tier holds and this device, which is to
 * prefill it, does not.
 *
 * Invariants:
 * F1 It never fails a request: whatever goes wrong is a problem that is reported, and the rest is computed.
 * F2 The blocks stay where they are while they are written to, and are used only once all are here.
 */
import type { CachedPrefix, PrefixReuse } from '@kvasir/proto/kvasir/inference/v1/inference'
import { ReuseMode } from '@kvasir/proto/kvasir/inference/v1/inference'
import { withDeadline } from '@kvasir/runtime/deferred'
import { KvasirError } from '@kvasir/runtime/errors'
import { recordError, startSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import type { Attributes, Context } from '@opentelemetry/api'
import { BLOCK_TOKENS } from './core/block-allocator.js'
import { type Device, leaseOf } from './device.js'
import { HashChain } from './hash-chain.js'
import { pullKv, type ReceivedKv } from './incoming-transfer.js'
import { runWriter, shapeOf } from './kv-shape.js'
import type { ServedModel } from './served-model.js'

/** The names of a sequence's blocks; undefined where none is reused and none left behind. */
export function hashesOf(
  { model }: ServedModel,
  tenantSalt: Uint8Array,
  tokens: readonly number[],
  reuse: ReuseMode | undefined,
): HashChain | undefined {
  return reuse === ReuseMode.NONE ? undefined : new HashChain(model.digest, tenantSalt, tokens)
}

/** Leading tokens that can be fetched; 0 where there is nothing to fetch or no other device named. */
export function fetchableTokens(
  { deviceId }: Device,
  prefix: CachedPrefix | undefined,
  hashes: HashChain | undefined,
): number {
  if (prefix === undefined || hashes === undefined) return 0
  return prefix.deviceId === '' || prefix.deviceId === deviceId ? 0 : prefix.tokens
}

/** What is told of a sequence that reused `localTokens` of this device's own and nothing else. */
export function localReuse(localTokens: number): PrefixReuse {
  return {
    localTokens,
    fetchedTokens: 0,
    sourceDeviceId: '',
    fetchedBytes: 0n,
    fetchUs: 0n,
    problem: '',
  }
}

export interface PrefixFetch {
  readonly device: Device
  readonly served: ServedModel
  /** Lease that holds its blocks. */
  readonly counter: bigint
  /** Leading tokens that are here. */
  readonly localTokens: number
  readonly prefix: CachedPrefix
  readonly hashes: HashChain
  /** Aborts when the sequence ends. */
  readonly signal: AbortSignal
  readonly attributes: Attributes
  readonly parent: Context
}

/** Fetches blocks [localTokens, prefix.tokens). Never rejects. The blocks are pinned before it first returns. */
export async function fetchPrefix(fetch: PrefixFetch): Promise<PrefixReuse> {
  const { device, counter, localTokens, prefix } = fetch
  const { runner } = fetch.served
  const { clock } = device
  const span = startSpan(
    SPAN.kvFetch,
    { ...fetch.attributes, [ATTRIBUTE.fetchedFrom]: prefix.deviceId, [ATTRIBUTE.cachedTokens]: localTokens },
    fetch.parent,
  )
  const startedAtMs = clock.nowMs()
  let reuse: PrefixReuse = { ...localReuse(localTokens), sourceDeviceId: prefix.deviceId }
  runner.apply({ type: 'pin', counter })
  try {
    const kv = await pullBlocks(fetch, runner.blocks(counter))
    const fetchedTokens = kv.blocks * BLOCK_TOKENS
    const asked = prefix.tokens - localTokens
    const problem =
      fetchedTokens === asked
        ? ''
        : `Device ${prefix.deviceId} has only ${fetchedTokens} of the ${asked} tokens that were asked for.`
    const { linkFactor } = shapeOf(fetch.served)
    const modelled =
      linkFactor === undefined ? {} : { modelledFetchedBytes: BigInt(Math.round(kv.bytes * linkFactor)) }
    reuse = { ...reuse, fetchedTokens, fetchedBytes: BigInt(kv.bytes), problem, ...modelled }
    span.setAttributes({
      [ATTRIBUTE.kvBytes]: kv.bytes,
      [ATTRIBUTE.kvChunks]: kv.chunks,
      [ATTRIBUTE.kvMergeLayers]: kv.mergeLayers,
    })
  } catch (thrown) {
    recordError(span, thrown)
    reuse = { ...reuse, problem: KvasirError.from(thrown).message }
  } finally {
    runner.apply({ type: 'unpin', counter })
  }
  const elapsedMs = clock.nowMs() - startedAtMs
  reuse = { ...reuse, fetchUs: BigInt(Math.round(elapsedMs * 1_000)) }
  span.setAttributes({
    [ATTRIBUTE.fetchedTokens]: reuse.fetchedTokens,
    [ATTRIBUTE.kvBytesPerSecond]:
      elapsedMs === 0 ? 0 : Math.round(Number(reuse.fetchedBytes) / (elapsedMs / 1_000)),
  })
  span.end()
  return reuse
}

function pullBlocks(fetch: PrefixFetch, blocks: readonly number[]): Promise<ReceivedKv> {
  const { device, served, counter, localTokens, prefix, hashes } = fetch
  const { limits, clock } = device
  const firstBlock = localTokens / BLOCK_TOKENS
  const late = new AbortController()
  const pull = pullKv({
    client: device.kvClient(prefix.endpoint),
    sourceDeviceId: prefix.deviceId,
    wanted: { hashes: hashes.prompt.slice(firstBlock, prefix.tokens / BLOCK_TOKENS) },
    shape: shapeOf(served),
    lease: leaseOf(device, counter),
    windowBytes: limits.windowBytes,
    write: runWriter(served.driver, blocks.slice(firstBlock)),
    link: device.arrivalPacer,
    clock,
    silenceMs: limits.fetchSilenceMs,
    signal: AbortSignal.any([fetch.signal, late.signal]),
  })
  return withDeadline(pull, limits.fetchMs, `fetching cached blocks from device ${prefix.deviceId}`).catch(
    async (error: unknown) => {
      late.abort(error)
      // Nothing is written any more once it has settled.
      await pull.catch(() => {})
      throw error
    },
  )
}
