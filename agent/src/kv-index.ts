/**
 * The full KV blocks that a device holds, by hash, and the events that tell of changes.
 *
 * Several sequences may hold a block of the same hash; it is told as stored with the
 * first and as removed with the last. Events of one turn of the event loop go out
 * together.
 *
 * Invariant: applied in order, events 1 … n give exactly what `snapshot` says at
 * sequence n; a reader that misses one asks for a snapshot.
 */
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { blockHashes, rootHash } from '@kvasir/engine/text/block-hash'

export interface KvChange {
  /** Counts changes from 1. */
  readonly sequence: bigint
  readonly stored: readonly Uint8Array[]
  readonly removed: readonly Uint8Array[]
}

/** The hash chain of one sequence. */
interface Chain {
  /** Hash of the last full block, or the root. */
  tip: Uint8Array
  readonly keys: string[]
}

export class KvIndex {
  private readonly chains = new Map<bigint, Chain>()
  private readonly holders = new Map<string, number>()
  /** What was last told of a block whose state may have changed since. */
  private readonly toldBefore = new Map<string, boolean>()
  private sequence = 0n
  private scheduled = false

  constructor(
    private readonly modelDigest: string,
    private readonly publish: (change: KvChange) => void,
  ) {}

  /** A lease begins to hold a sequence of a tenant. */
  open(counter: bigint, tenantSalt: Uint8Array): void {
    const tip = rootHash(this.modelDigest, '', Buffer.from(tenantSalt).toString('hex'))
    this.chains.set(counter, { tip, keys: [] })
  }

  /** The KV of the first `computedTokens` of `tokens` is in the lease's blocks. */
  computed(counter: bigint, tokens: readonly number[], computedTokens: number): void {
    const chain = this.chains.get(counter)
    if (chain === undefined) return
    const from = chain.keys.length * BLOCK_TOKENS
    if (computedTokens < from + BLOCK_TOKENS) return
    for (const hash of blockHashes(chain.tip, tokens.slice(from, computedTokens))) {
      chain.tip = hash
      const key = Buffer.from(hash).toString('hex')
      chain.keys.push(key)
      this.hold(key, 1)
    }
  }

  /** The lease has ended. */
  close(counter: bigint): void {
    const chain = this.chains.get(counter)
    if (chain === undefined) return
    this.chains.delete(counter)
    for (const key of chain.keys) this.hold(key, -1)
  }

  /** Everything held, and the sequence number of the last event that it includes. */
  snapshot(): { readonly sequence: bigint; readonly hashes: readonly Uint8Array[] } {
    this.flush()
    return { sequence: this.sequence, hashes: [...this.holders.keys()].map(bytesOf) }
  }

  private hold(key: string, change: 1 | -1): void {
    const count = this.holders.get(key) ?? 0
    if (!this.toldBefore.has(key)) this.toldBefore.set(key, count > 0)
    if (count + change > 0) this.holders.set(key, count + change)
    else this.holders.delete(key)
    if (this.scheduled) return
    this.scheduled = true
    setImmediate(() => this.flush())
  }

  private flush(): void {
    this.scheduled = false
    const stored: Uint8Array[] = []
    const removed: Uint8Array[] = []
    for (const [key, before] of this.toldBefore) {
      const now = this.holders.has(key)
      if (now && !before) stored.push(bytesOf(key))
      if (!now && before) removed.push(bytesOf(key))
    }
    this.toldBefore.clear()
    if (stored.length === 0 && removed.length === 0) return
    this.sequence += 1n
    this.publish({ sequence: this.sequence, stored, removed })
  }
}

function bytesOf(key: string): Uint8Array {
  return new Uint8Array(Buffer.from(key, 'hex'))
}
