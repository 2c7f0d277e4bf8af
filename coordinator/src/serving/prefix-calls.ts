/**
 * Prefix reuse in the calls of one epoch: what devices are told of cached blocks, and what they answer.
 *
 * A device that is expected to hold blocks and does not computes them: that costs time, never the request.
 */
import { type CachedPrefix, type PrefixReuse, ReuseMode } from '@kvasir/proto/kvasir/inference/v1/inference'
import type { BlockHashes as BlockHashesMessage } from '@kvasir/proto/kvasir/kv/v1/kv'
import { type BlockHashes, hashRange } from '../core/block-hashes.js'
import type { Decision } from '../core/decision.js'
import type { DeviceRef } from '../core/facts.js'
import { BLOCK_TOKENS } from '../core/kv-blocks.js'
import type { GenerationRequest } from '../generation.js'
import { bytesFromHashes } from '../hash-words.js'
import type { DeviceClients } from './device-clients.js'

/** What became of the cached prefix on the device that prefills. */
export interface ReuseFigures {
  readonly localTokens: number
  readonly fetchedTokens: number
  readonly fetchedBytes: number
  /** Of the catalogued model, where the device is paced; else those that were fetched. */
  readonly modelledBytes: number
  readonly fetchMs: number
  /** Why less came than was asked for, one sentence; empty where all came. */
  readonly problem: string
}

type Hashed = Pick<GenerationRequest, 'reusePrefix' | 'blockHashes'>

export function reuseMode({ reusePrefix }: Hashed): ReuseMode {
  return reusePrefix ? ReuseMode.FULL : ReuseMode.NONE
}

/** For Reserve: blocks that the device still has need no new memory. */
export function prefixHashes({ reusePrefix, blockHashes }: Hashed): BlockHashesMessage | undefined {
  if (!reusePrefix) return undefined
  return { hashes: bytesFromHashes(blockHashes) }
}

/** For the device that prefills; undefined where it starts from nothing. */
export function cachedPrefix({ prefix }: Decision, clients: DeviceClients): CachedPrefix | undefined {
  const { fetch, localTokens, localTier } = prefix
  // A source that left since it was chosen is not asked.
  const endpoint = fetch ? clients.kvEndpoint(fetch.device) : undefined
  if (fetch && endpoint !== undefined) {
    return { tokens: fetch.tokens, deviceId: fetch.device.deviceId, endpoint, tier: fetch.tier }
  }
  if (localTokens === 0) return undefined
  return { tokens: localTokens, deviceId: '', endpoint: '', tier: localTier }
}

export function readReuse(reuse: PrefixReuse | undefined): ReuseFigures {
  return {
    localTokens: reuse?.localTokens ?? 0,
    fetchedTokens: reuse?.fetchedTokens ?? 0,
    fetchedBytes: Number(reuse?.fetchedBytes ?? 0n),
    modelledBytes: Number(reuse?.modelledFetchedBytes ?? reuse?.fetchedBytes ?? 0n),
    fetchMs: Number(reuse?.fetchUs ?? 0n) / 1000,
    problem: reuse?.problem ?? '',
  }
}

export interface MissedBlocks {
  readonly device: DeviceRef
  readonly hashes: BlockHashes
}

/** Blocks that the directory knew on a device and that were not there, or did not come. */
export function missedByPrefill(
  { prefill, prefix }: Decision,
  blockHashes: BlockHashes,
  { localTokens, fetchedTokens }: ReuseFigures,
): MissedBlocks[] {
  const missed = [{ device: prefill, hashes: between(blockHashes, localTokens, prefix.localTokens) }]
  if (prefix.fetch) {
    const { device, tokens } = prefix.fetch
    missed.push({ device, hashes: between(blockHashes, localTokens + fetchedTokens, tokens) })
  }
  return missed.filter(({ hashes }) => hashes.length > 0)
}

/** The same on the device that decodes what another one prefills. */
export function missedByDecode(
  { decode, prefix }: Decision,
  blockHashes: BlockHashes,
  heldTokens: number,
): MissedBlocks[] {
  const hashes = between(blockHashes, heldTokens, prefix.heldByDecodeTokens)
  return hashes.length > 0 ? [{ device: decode, hashes }] : []
}

function between(blockHashes: BlockHashes, haveTokens: number, expectedTokens: number): BlockHashes {
  const [from, to] = [Math.floor(haveTokens / BLOCK_TOKENS), Math.ceil(expectedTokens / BLOCK_TOKENS)]
  return hashRange(blockHashes, from, Math.max(from, to))
}
