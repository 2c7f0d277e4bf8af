/**
 * The leases that one device issued in one life of its agent.
 *
 * Invariants:
 * L1 A lease is named by (device, incarnation, counter); a counter is issued once, by one table of the incarnation.
 * L2 A lease ends once: by its owner's word, by the holder's release, or when its
 *    time to live passes without a stream that uses it. It never comes back.
 * L3 A lease of another device or of another life is never taken for one of ours.
 */

/** A lease as its holder shows it. */
export interface LeaseReference {
  readonly deviceId: string
  readonly incarnation: bigint
  readonly counter: bigint
}

/**
 * alive: may be used. ended: was ours and is over. older: of an earlier life of this
 * device. foreign: never issued by this device.
 */
export type LeaseVerdict = 'alive' | 'ended' | 'older' | 'foreign'

export interface LeaseIssuer {
  readonly deviceId: string
  readonly incarnation: bigint
  readonly ttlMs: number
  /** The first lease has the number after it: 0, unless others issue leases of the same incarnation. */
  readonly countersFrom?: bigint
}

/** Of a lease that no stream uses. */
type ExpiresAtMs = number

export class LeaseTable {
  private readonly alive = new Set<bigint>()
  /** Those that nobody uses, in the order in which they were issued. */
  private readonly unused = new Map<bigint, ExpiresAtMs>()
  /** None of them expires before. */
  private nothingBeforeMs = Number.POSITIVE_INFINITY
  private readonly countersFrom: bigint
  private lastCounter: bigint

  constructor(private readonly issuer: LeaseIssuer) {
    this.countersFrom = issuer.countersFrom ?? 0n
    this.lastCounter = this.countersFrom
  }

  get aliveCount(): number {
    return this.alive.size
  }

  /** Of the leases that nobody uses, when the first one expires; infinite where there is none. */
  get nextExpiryMs(): number {
    let nextMs = Number.POSITIVE_INFINITY
    for (const expiresAtMs of this.unused.values()) nextMs = Math.min(nextMs, expiresAtMs)
    this.nothingBeforeMs = nextMs
    return nextMs
  }

  issue(nowMs: number): bigint {
    this.lastCounter += 1n
    this.alive.add(this.lastCounter)
    this.expireAt(this.lastCounter, nowMs + this.issuer.ttlMs)
    return this.lastCounter
  }

  verdict(lease: LeaseReference): LeaseVerdict {
    if (lease.deviceId !== this.issuer.deviceId) return 'foreign'
    if (lease.incarnation < this.issuer.incarnation) return 'older'
    if (lease.incarnation > this.issuer.incarnation) return 'foreign'
    if (lease.counter <= this.countersFrom || lease.counter > this.lastCounter) return 'foreign'
    return this.alive.has(lease.counter) ? 'alive' : 'ended'
  }

  /** Starts the time to live anew. */
  renew(counter: bigint, nowMs: number): void {
    if (this.unused.has(counter)) this.expireAt(counter, nowMs + this.issuer.ttlMs)
  }

  /** A stream uses the lease from now on, which renews it all the time until the lease ends. */
  use(counter: bigint): void {
    this.unused.delete(counter)
  }

  /** False where it was over already. */
  end(counter: bigint): boolean {
    this.unused.delete(counter)
    return this.alive.delete(counter)
  }

  /** Leases whose time is up, which stay alive until `end` is called for them. */
  expired(nowMs: number): readonly bigint[] {
    if (nowMs < this.nothingBeforeMs || this.nextExpiryMs > nowMs) return NONE
    const counters: bigint[] = []
    for (const [counter, expiresAtMs] of this.unused) if (expiresAtMs <= nowMs) counters.push(counter)
    return counters
  }

  private expireAt(counter: bigint, expiresAtMs: ExpiresAtMs): void {
    this.unused.set(counter, expiresAtMs)
    this.nothingBeforeMs = Math.min(this.nothingBeforeMs, expiresAtMs)
  }
}

const NONE: readonly bigint[] = []
