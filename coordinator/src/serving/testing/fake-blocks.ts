/**
 * The blocks of a fake device: their names only. It tells of changes as a device does, unless the test
 * has it keep silent.
 */
import { KvEvent, type KvVariant, Precision, Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { CachedPrefix, PrefixReuse } from '@kvasir/proto/kvasir/inference/v1/inference'
import type { SnapshotResponse } from '@kvasir/proto/kvasir/kv/v1/kv'
import { type BlockHashes, hashCount, NO_HASHES } from '../../core/block-hashes.js'
import { bytesFromHashes } from '../../hash-words.js'

const BLOCK_TOKENS = 16
export const FAKE_VARIANT: KvVariant = {
  numerics: Profile.EXACT,
  dtype: Precision.F32,
  layers: { first: 0, count: 2 },
}

/** By device id: from where fake devices fetch instead of over a wire. */
export type FakePeers = Map<string, FakeBlocks>

export class FakeBlocks {
  readonly #held = new Set<string>()
  readonly #identity: { readonly deviceId: string; readonly incarnation: bigint }
  readonly #tier: string
  readonly #publish: (event: object) => void
  #sequence = 0n
  /** Lists that were asked for. */
  snapshots = 0

  constructor(
    identity: { readonly deviceId: string; readonly incarnation: bigint },
    tier: string,
    publish: (event: object) => void,
  ) {
    this.#identity = identity
    this.#tier = tier
    this.#publish = publish
  }

  store(hashes: BlockHashes): void {
    for (const name of namesOf(hashes)) this.#held.add(name)
    this.#tell(hashes, NO_HASHES, true)
  }

  /** `isTold` false: the event is lost on its way. */
  remove(hashes: BlockHashes, isTold = true): void {
    for (const name of namesOf(hashes)) this.#held.delete(name)
    this.#tell(NO_HASHES, hashes, isTold)
  }

  /** Leading tokens that are here. */
  leadingTokens(hashes: BlockHashes): number {
    const missing = namesOf(hashes).findIndex((name) => !this.#held.has(name))
    return (missing < 0 ? hashCount(hashes) : missing) * BLOCK_TOKENS
  }

  /** As a device that prefills `tokens` would: its own blocks, then those of the named source, never all tokens. */
  reuse(
    hashes: BlockHashes,
    tokens: number,
    prefix: CachedPrefix | undefined,
    peers: FakePeers,
  ): PrefixReuse {
    const reusableTokens = Math.floor((tokens - 1) / BLOCK_TOKENS) * BLOCK_TOKENS
    const localTokens = Math.min(this.leadingTokens(hashes), reusableTokens)
    const nothing = {
      localTokens,
      fetchedTokens: 0,
      sourceDeviceId: '',
      fetchedBytes: 0n,
      fetchUs: 0n,
      problem: '',
    }
    if (!prefix || prefix.deviceId === '' || prefix.tokens <= localTokens) return nothing
    const there = peers.get(prefix.deviceId)?.leadingTokens(hashes) ?? 0
    const fetchedTokens = Math.max(0, Math.min(there, prefix.tokens) - localTokens)
    return {
      ...nothing,
      fetchedTokens,
      sourceDeviceId: prefix.deviceId,
      fetchedBytes: BigInt(fetchedTokens * 64),
      fetchUs: 500n,
      problem: localTokens + fetchedTokens < prefix.tokens ? `${prefix.deviceId} no longer had them.` : '',
    }
  }

  snapshot(): SnapshotResponse {
    this.snapshots += 1
    const hashes = [...this.#held].map((name) => Buffer.from(name, 'hex'))
    return {
      incarnation: this.#identity.incarnation,
      sequence: this.#sequence,
      hashes,
      variant: FAKE_VARIANT,
    }
  }

  #tell(stored: BlockHashes, removed: BlockHashes, isTold: boolean): void {
    this.#sequence += 1n
    if (!isTold) return
    const event = KvEvent.fromPartial({
      ...this.#identity,
      sequence: this.#sequence,
      stored: bytesFromHashes(stored),
      removed: bytesFromHashes(removed),
      variant: FAKE_VARIANT,
      tier: this.#tier,
    })
    this.#publish(KvEvent.toJSON(event) as object)
  }
}

function namesOf(hashes: BlockHashes): string[] {
  return bytesFromHashes(hashes).map((hash) => hash.toString('hex'))
}
