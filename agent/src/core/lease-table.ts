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

interface AliveLease {
  /** Expiry while no stream uses the lease. */
  expiresAtMs: number
  /** A stream uses it, which renews it all the time. */
  inUse: boolean
}

export class LeaseTable {
  private readonly alive = new Map<bigint, AliveLease>()
  private readonly countersFrom: bigint
  private lastCounter: bigint

  constructor(private readonly issuer: LeaseIssuer) {
    this.countersFrom = issuer.countersFrom ?? 0n
    this.lastCounter = this.countersFrom
  }

  get aliveCount(): number {
    return this.alive.size
  }

  issue(nowMs: number): bigint {
    this.lastCounter += 1n
    this.alive.set(this.lastCounter, { expiresAtMs: nowMs + this.issuer.ttlMs, inUse: false })
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
    const lease = this.alive.get(counter)
    if (lease !== undefined) lease.expiresAtMs = nowMs + this.issuer.ttlMs
  }

  /** A stream uses the lease from now on, until the lease ends. */
  use(counter: bigint): void {
    const lease = this.alive.get(counter)
    if (lease !== undefined) lease.inUse = true
  }

  /** False where it was over already. */
  end(counter: bigint): boolean {
    return this.alive.delete(counter)
  }

  /** Leases whose time is up, which stay alive until `end` is called for them. */
  expired(nowMs: number): bigint[] {
    const counters: bigint[] = []
    for (const [counter, lease] of this.alive) {
      if (!lease.inUse && lease.expiresAtMs <= nowMs) counters.push(counter)
    }
    return counters
  }
}
