/**
 * Follows what devices tell of their blocks and keeps the directory in step.
 *
 * Events of a device's life count from 1 and come at most once. One that is out of turn means that others
 * were missed: the device is healing, which a snapshot ends.
 *
 * F1. An event takes effect once, after all before it; those that come while a device heals wait, the
 *     newest ones up to WAITING_HASHES_MAX, and are applied after the snapshot that they follow.
 * F2. A device that is new, and every device after our own connection was down, heals first.
 * F3. At most SNAPSHOTS_MAX snapshots are asked for at once; one that fails is asked for again after a
 *     pause that grows to RETRY_MAX_MS. One that is not answered counts as failed.
 * F4. Blocks that were missed are known again, where the device has them, by the first report of it that comes
 *     RECHECK_MS after it was last asked for that reason.
 */
import { type BlockHashes, hashCount } from './block-hashes.js'
import type { DeviceRef } from './facts.js'
import type { BlockGroup, KvDirectory } from './kv-directory.js'

export const SNAPSHOT_TIMEOUT_MS = 5_000
const SNAPSHOTS_MAX = 16
const RETRY_MIN_MS = 250
const RETRY_MAX_MS = 10_000
/** For a shell that does not answer. */
const ANSWER_MARGIN_MS = 1_000
const WAITING_HASHES_MAX = 65_536
/**
 * A device that did not give what it was thought to have is asked what it has, at most this often. One that only stood
 * still has its blocks yet, and is of no use for them meanwhile.
 */
export const RECHECK_MS = 5_000

/** A change of what a device holds. */
export interface KvChange extends DeviceRef {
  readonly sequence: number
  readonly stored: BlockHashes
  readonly removed: BlockHashes
  readonly variant: string
  readonly tier: string
}

/** What a device holds, with the effect of all events up to `sequence`. */
export interface KvSnapshot {
  readonly sequence: number
  readonly groups: readonly BlockGroup[]
}

interface Followed {
  readonly ref: DeviceRef
  /** Last event that took effect. */
  sequence: number
  isHealing: boolean
  askedAtMs: number | null
  askAgainAtMs: number
  failures: number
  checkedAtMs: number
  /** Blocks of it were taken for gone too soon after the last check to ask again at once. */
  isToBeChecked: boolean
  /** In order of arrival. */
  waiting: KvChange[]
  waitingHashes: number
}

export class KvFollower {
  readonly #directory: KvDirectory
  readonly #devices = new Map<string, Followed>()
  readonly #healing = new Set<Followed>()
  #asked = 0

  constructor(directory: KvDirectory) {
    this.#directory = directory
  }

  /** Devices whose blocks are not known for sure, by id. */
  healing(): string[] {
    return [...this.#healing].map(({ ref }) => ref.deviceId).sort()
  }

  /** A life of a device begins, which ends the one before. */
  begin(ref: DeviceRef, nowMs: number): void {
    const before = this.#devices.get(ref.deviceId)
    if (before?.ref.incarnation === ref.incarnation) return
    this.end(ref.deviceId)
    const followed: Followed = {
      ref,
      sequence: 0,
      isHealing: false,
      askedAtMs: null,
      askAgainAtMs: nowMs,
      failures: 0,
      checkedAtMs: nowMs,
      isToBeChecked: false,
      waiting: [],
      waitingHashes: 0,
    }
    this.#devices.set(ref.deviceId, followed)
    this.#heal(followed, nowMs)
  }

  end(deviceId: string): void {
    const followed = this.#devices.get(deviceId)
    if (!followed) return
    this.#answered(followed)
    this.#healing.delete(followed)
    this.#devices.delete(deviceId)
    this.#directory.dropDevice(deviceId)
  }

  /** News may have been missed. */
  healAll(nowMs: number): void {
    for (const followed of this.#devices.values()) this.#heal(followed, nowMs)
  }

  change(change: KvChange, nowMs: number): void {
    const followed = this.#find(change)
    if (!followed || change.sequence <= followed.sequence) return
    if (!followed.isHealing && change.sequence === followed.sequence + 1) {
      this.#apply(followed, change)
      return
    }
    this.#keep(followed, change)
    this.#heal(followed, nowMs)
  }

  /** A device says how many events there were: reports come after the events before them, so more are missing ones. */
  reported({ kvSequence, ...ref }: DeviceRef & { readonly kvSequence?: number }, nowMs: number): void {
    const followed = this.#find(ref)
    if (!followed) return
    if (kvSequence !== undefined && kvSequence > followed.sequence) this.#heal(followed, nowMs)
    if (followed.isToBeChecked && nowMs - followed.checkedAtMs >= RECHECK_MS) this.#check(followed, nowMs)
  }

  /** The answer to an asked-for snapshot; null where there was none. */
  snapshot(ref: DeviceRef, snapshot: KvSnapshot | null, nowMs: number): void {
    const followed = this.#find(ref)
    if (!followed?.isHealing) return
    this.#answered(followed)
    // One from before what has taken effect is out of date.
    if (!snapshot || snapshot.sequence < followed.sequence) {
      this.#askLater(followed, nowMs)
      return
    }
    this.#directory.replace(ref.deviceId, snapshot.groups)
    followed.sequence = snapshot.sequence
    const waiting = followed.waiting.toSorted((a, b) => a.sequence - b.sequence)
    followed.waiting = []
    followed.waitingHashes = 0
    for (const change of waiting) {
      if (change.sequence === followed.sequence + 1) this.#apply(followed, change)
      else if (change.sequence > followed.sequence) this.#keep(followed, change)
    }
    if (followed.waiting.length > 0) {
      this.#askLater(followed, nowMs)
      return
    }
    followed.isHealing = false
    followed.isToBeChecked = false
    followed.failures = 0
    this.#healing.delete(followed)
  }

  /**
   * The device did not have blocks that it was thought to hold, or did not give them: it is not asked for them
   * again before it said that it has them, since it tells only once of a block that it keeps.
   */
  missed(ref: DeviceRef, hashes: BlockHashes, nowMs: number): void {
    const followed = this.#find(ref)
    if (!followed) return
    this.#directory.remove(ref.deviceId, hashes)
    followed.isToBeChecked = true
    if (nowMs - followed.checkedAtMs >= RECHECK_MS) this.#check(followed, nowMs)
  }

  /** Devices to be asked for a snapshot now. Each is answered with `snapshot`. */
  due(nowMs: number, isReachable: (deviceId: string) => boolean): DeviceRef[] {
    const refs: DeviceRef[] = []
    for (const followed of this.#healing) {
      const isLate =
        followed.askedAtMs !== null && nowMs - followed.askedAtMs > SNAPSHOT_TIMEOUT_MS + ANSWER_MARGIN_MS
      if (isLate) {
        this.#answered(followed)
        this.#askLater(followed, nowMs)
      }
      const isDue = followed.askedAtMs === null && nowMs >= followed.askAgainAtMs
      if (!isDue || this.#asked >= SNAPSHOTS_MAX || !isReachable(followed.ref.deviceId)) continue
      followed.askedAtMs = nowMs
      this.#asked += 1
      refs.push(followed.ref)
    }
    return refs
  }

  #find(ref: DeviceRef): Followed | undefined {
    const followed = this.#devices.get(ref.deviceId)
    return followed?.ref.incarnation === ref.incarnation ? followed : undefined
  }

  #check(followed: Followed, nowMs: number): void {
    if (followed.isHealing) return
    followed.checkedAtMs = nowMs
    this.#heal(followed, nowMs)
  }

  #heal(followed: Followed, nowMs: number): void {
    if (followed.isHealing) return
    followed.isHealing = true
    followed.askAgainAtMs = nowMs
    this.#healing.add(followed)
  }

  #apply(followed: Followed, { stored, removed, variant, tier, sequence, deviceId }: KvChange): void {
    this.#directory.remove(deviceId, removed)
    this.#directory.store(deviceId, { variant, hashes: stored }, tier)
    followed.sequence = sequence
  }

  #keep(followed: Followed, change: KvChange): void {
    followed.waiting.push(change)
    followed.waitingHashes += weight(change)
    while (followed.waitingHashes > WAITING_HASHES_MAX) {
      const oldest = followed.waiting.shift()
      if (!oldest) return
      followed.waitingHashes -= weight(oldest)
    }
  }

  #answered(followed: Followed): void {
    if (followed.askedAtMs === null) return
    followed.askedAtMs = null
    this.#asked -= 1
  }

  #askLater(followed: Followed, nowMs: number): void {
    followed.failures += 1
    followed.askAgainAtMs = nowMs + Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** (followed.failures - 1))
  }
}

function weight({ stored, removed }: KvChange): number {
  return 1 + hashCount(stored) + hashCount(removed)
}
