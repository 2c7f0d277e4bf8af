/**
 * The blocks of a fake device: their names only. It tells of changes as a device does, unless the test
 * has it keep silent.
 */
import { KvEvent, type KvVariant, Precision, Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { CachedPrefix, PrefixReuse } from '@kvasir/proto/kvasir/inference/v1/inference'
import type { SnapshotResponse } from '@kvasir/proto/kvasir/kv/v1/kv'

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

  store(hashes: readonly string[]): void {
    for (const hash of hashes) this.#held.add(hash)
    this.#tell(hashes, [], true)
  }

  /** `isTold` false: the event is lost on its way. */
  remove(hashes: readonly string[], isTold = true): void {
    for (const hash of hashes) this.#held.delete(hash)
    this.#tell([], hashes, isTold)
  }

  /** Leading tokens that are here. */
  leadingTokens(hashes: readonly string[]): number {
    const missing = hashes.findIndex((hash) => !this.#held.has(hash))
    return (missing < 0 ? hashes.length : missing) * BLOCK_TOKENS
  }

  /** As a device that prefills `tokens` would: its own blocks, then those of the named source, never all tokens. */
  reuse(
    hashes: readonly string[],
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
    const hashes = [...this.#held].map(bytesOf)
    return {
      incarnation: this.#identity.incarnation,
      sequence: this.#sequence,
      hashes,
      variant: FAKE_VARIANT,
    }
  }

  #tell(stored: readonly string[], removed: readonly string[], isTold: boolean): void {
    this.#sequence += 1n
    if (!isTold) return
    const event = KvEvent.fromPartial({
      ...this.#identity,
      sequence: this.#sequence,
      stored: stored.map(bytesOf),
      removed: removed.map(bytesOf),
      variant: FAKE_VARIANT,
      tier: this.#tier,
    })
    this.#publish(KvEvent.toJSON(event) as object)
  }
}

function bytesOf(hash: string): Buffer {
  return Buffer.from(hash, 'hex')
}
