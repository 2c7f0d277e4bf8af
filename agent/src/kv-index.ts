/**
 * The log of changes in the set of full KV blocks that an agent holds, and that set.
 *
 * What changed is told by whoever holds the blocks. Changes of one turn of the event loop go out together,
 * one event for each variant and EVENT_HASHES_MAX hashes.
 *
 * Invariant: applied in order, events 1 … n give exactly what `snapshot` says at sequence n; a reader that
 * misses one asks for a snapshot.
 */
import type { KvVariant } from '@kvasir/proto/kvasir/capability/v1/capability'

/** A message on NATS stays well below its limit of 1 MB. */
const EVENT_HASHES_MAX = 4_096

export interface KvChange {
  /** Counts changes from 1. */
  readonly sequence: bigint
  /** Hexadecimal. */
  readonly stored: readonly string[]
  readonly removed: readonly string[]
  readonly variant: KvVariant
}

export interface KvSnapshot {
  /** The last event that it includes. */
  readonly sequence: bigint
  readonly parts: readonly { readonly variant: KvVariant; readonly hashes: readonly string[] }[]
}

/** The blocks of one variant. */
interface Shelf {
  readonly variant: KvVariant
  readonly held: Set<string>
  /** Of each block whose state may have changed since the last event: whether it was held then. */
  readonly before: Map<string, boolean>
}

export class KvIndex {
  private readonly shelves = new Map<string, Shelf>()
  private sequence = 0n
  private scheduled = false

  constructor(private readonly publish: (change: KvChange) => void) {}

  /** `stored` are held from now on, `removed` no longer. */
  changed(variant: KvVariant, stored: readonly string[], removed: readonly string[]): void {
    const shelf = this.shelf(variant)
    const note = (hash: string) => {
      if (!shelf.before.has(hash)) shelf.before.set(hash, shelf.held.has(hash))
    }
    for (const hash of removed) {
      note(hash)
      shelf.held.delete(hash)
    }
    for (const hash of stored) {
      note(hash)
      shelf.held.add(hash)
    }
    if (this.scheduled) return
    this.scheduled = true
    setImmediate(() => this.flush())
  }

  /** Number of the last event. */
  get lastSequence(): bigint {
    return this.sequence
  }

  snapshot(): KvSnapshot {
    this.flush()
    const parts = [...this.shelves.values()].map(({ variant, held }) => ({ variant, hashes: [...held] }))
    return { sequence: this.sequence, parts }
  }

  private shelf(variant: KvVariant): Shelf {
    const key = variantKey(variant)
    const known = this.shelves.get(key)
    if (known !== undefined) return known
    const shelf: Shelf = { variant, held: new Set(), before: new Map() }
    this.shelves.set(key, shelf)
    return shelf
  }

  private flush(): void {
    this.scheduled = false
    for (const { variant, held, before } of this.shelves.values()) {
      const changes = [...before].filter(([hash, was]) => held.has(hash) !== was)
      before.clear()
      for (let from = 0; from < changes.length; from += EVENT_HASHES_MAX) {
        const part = changes.slice(from, from + EVENT_HASHES_MAX)
        const of = (was: boolean) => part.filter(([, before]) => before === was).map(([hash]) => hash)
        this.sequence += 1n
        this.publish({ sequence: this.sequence, stored: of(false), removed: of(true), variant })
      }
    }
  }
}

/** Equal for equal variants. */
export function variantKey({ numerics, dtype, layers }: KvVariant): string {
  return `${numerics} ${dtype} ${layers?.first}+${layers?.count}`
}

export function hashBytes(hash: string): Buffer {
  return Buffer.from(hash, 'hex')
}

export function hashText(hash: Uint8Array): string {
  return Buffer.from(hash.buffer, hash.byteOffset, hash.byteLength).toString('hex')
}
