/**
 * Links that concurrent transfers share max-min fairly (progressive filling): no transfer gets more as long as another
 * one on the same link gets less and could use more.
 *
 * A transfer is a fluid: bytes become available at once or at a rate while they are computed, and leave at the rate that
 * its share allows. So a prompt's KV flows beside its prefill without an event for each message.
 *
 * S1 The rates on a link never exceed its capacity. S2 A transfer that is closed and has sent everything ends, once.
 */
import type { EventQueue } from './event-queue.js'

export class SharedLink {
  readonly flows = new Set<Flow>()
  bytesCarried = 0
  /** Of one filling, the one numbered `round`. */
  left = 0
  open = 0
  round = 0

  /** `bytesPerMs` may change while transfers run (`SharedLinks.changed` then). */
  constructor(
    readonly name: string,
    public bytesPerMs: number,
  ) {}
}

const EPSILON_BYTES = 1e-3
/** A nanosecond, and where so much time has passed that floating point knows no such step, the next that it knows. */
const MOMENT_MS = 1e-6
const MOMENT_SHARE = 2 ** -50

export class Flow {
  /** Available and not sent. */
  pendingBytes = 0
  /** At which more becomes available, bytes a millisecond. */
  supplyBytesPerMs = 0
  isClosed = false
  isOver = false
  rateBytesPerMs = 0
  sentBytes = 0
  /** Of one filling: it has not got its share yet. */
  isOpen = false
  /** Time that it would have taken at the share it had, were everything available at once. */
  busyMs = 0
  settledMs: number

  constructor(
    readonly path: readonly SharedLink[],
    nowMs: number,
    readonly onDone: () => void,
  ) {
    this.settledMs = nowMs
  }

  /** What it can use, bytes a millisecond. */
  get demandBytesPerMs(): number {
    return this.pendingBytes > EPSILON_BYTES ? Number.POSITIVE_INFINITY : this.supplyBytesPerMs
  }
}

export class SharedLinks {
  /** Changes of shares: each an event of the simulation. */
  events = 0
  readonly #queue: EventQueue
  readonly #flows = new Set<Flow>()
  #round = 0

  constructor(queue: EventQueue) {
    this.#queue = queue
  }

  /** A transfer along `path`; nothing of it is available yet. */
  open(path: readonly SharedLink[], onDone: () => void): Flow {
    const flow = new Flow(path, this.#queue.nowMs, onDone)
    this.#flows.add(flow)
    for (const link of path) link.flows.add(flow)
    return flow
  }

  /** More bytes are available now, and from now on more become so at `supplyBytesPerMs`. */
  supply(flow: Flow, bytes: number, supplyBytesPerMs = flow.supplyBytesPerMs): void {
    if (flow.isOver) return
    this.#settle()
    flow.pendingBytes += bytes
    flow.supplyBytesPerMs = supplyBytesPerMs
    this.#share()
  }

  /** Nothing more will be available; `bytes` are the last. */
  close(flow: Flow, bytes = 0): void {
    if (flow.isOver) return
    this.#settle()
    flow.pendingBytes += bytes
    flow.supplyBytesPerMs = 0
    flow.isClosed = true
    this.#share()
  }

  /** Ends the transfer without `onDone`. */
  cancel(flow: Flow): void {
    if (flow.isOver) return
    this.#settle()
    this.#remove(flow)
    this.#share()
  }

  /** A link's capacity is another one now; call before and after with `settle` and this. */
  changed(link: SharedLink, bytesPerMs: number): void {
    this.#settle()
    link.bytesPerMs = bytesPerMs
    this.#share()
  }

  /** Brings the counters of all transfers up to now. */
  settle(): void {
    this.#settle()
  }

  #remove(flow: Flow): void {
    flow.isOver = true
    flow.rateBytesPerMs = 0
    this.#flows.delete(flow)
    for (const link of flow.path) link.flows.delete(flow)
  }

  #settle(): void {
    const { nowMs } = this.#queue
    for (const flow of this.#flows) {
      const elapsedMs = nowMs - flow.settledMs
      flow.settledMs = nowMs
      if (elapsedMs <= 0) continue
      const available = flow.pendingBytes + flow.supplyBytesPerMs * elapsedMs
      const sent = Math.min(available, flow.rateBytesPerMs * elapsedMs)
      flow.sentBytes += sent
      flow.pendingBytes = available - sent
      flow.busyMs += elapsedMs * busyShare(flow)
      for (const link of flow.path) link.bytesCarried += sent
    }
  }

  /** Gives every transfer its share and plans the next moment at which shares change by themselves. */
  #share(): void {
    this.events += 1
    this.#round += 1
    this.#finishDrained()
    fill(this.#flows, this.#round)
    let nextMs = Number.POSITIVE_INFINITY
    for (const flow of this.#flows) {
      const drainsPerMs = flow.rateBytesPerMs - flow.supplyBytesPerMs
      if (flow.pendingBytes > EPSILON_BYTES && drainsPerMs > 0) {
        nextMs = Math.min(nextMs, flow.pendingBytes / drainsPerMs)
      }
    }
    if (nextMs === Number.POSITIVE_INFINITY) return
    const round = this.#round
    // So late that time has gone on: a rest of a byte must not be waited for in a moment that never ends.
    const leastMs = Math.max(MOMENT_MS, this.#queue.nowMs * MOMENT_SHARE)
    this.#queue.after(Math.max(nextMs, leastMs), () => {
      if (round !== this.#round) return
      this.#settle()
      this.#share()
    })
  }

  #finishDrained(): void {
    for (const flow of this.#flows) {
      // A rounding error must not become an event a nanosecond ahead.
      if (flow.pendingBytes <= EPSILON_BYTES) flow.pendingBytes = 0
      if (!flow.isClosed || flow.pendingBytes > 0) continue
      this.#remove(flow)
      this.#queue.after(0, flow.onDone)
    }
  }
}

/** Of its time, what it would be busy at the share that it could have. */
function busyShare(flow: Flow): number {
  const share = fairShare(flow)
  if (share > 0) return Math.min(1, flow.rateBytesPerMs / share)
  // Nothing passes: whoever has something to send waits all the time.
  return flow.demandBytesPerMs > 0 ? 1 : 0
}

/** What it would get of its tightest link, were all others on it as eager. */
function fairShare({ path }: Flow): number {
  let share = Number.POSITIVE_INFINITY
  for (const { bytesPerMs, flows } of path) share = Math.min(share, bytesPerMs / Math.max(1, flows.size))
  return share
}

/**
 * Progressive filling. A transfer that wants no more than each of its links would give it gets what it wants, which leaves the
 * others more; where none is left, those on the tightest link get their share of it.
 */
function fill(flows: ReadonlySet<Flow>, round: number): void {
  let open = 0
  for (const flow of flows) {
    flow.rateBytesPerMs = 0
    flow.isOpen = flow.demandBytesPerMs > 0
    if (!flow.isOpen) continue
    open += 1
    for (const link of flow.path) {
      if (link.round === round) link.open += 1
      else {
        link.round = round
        link.left = link.bytesPerMs
        link.open = 1
      }
    }
  }
  while (open > 0) open -= fillMet(flows) || fillTightest(flows)
}

/** Gives what they want to the transfers that want no more than they would get; returns how many those are. */
function fillMet(flows: ReadonlySet<Flow>): number {
  let met = 0
  for (const flow of flows) {
    if (!flow.isOpen) continue
    const demand = flow.demandBytesPerMs
    if (demand > shareLeft(flow)) continue
    give(flow, demand)
    met += 1
  }
  return met
}

/** Gives the transfers on the tightest link their share; returns how many those are. */
function fillTightest(flows: ReadonlySet<Flow>): number {
  let least = Number.POSITIVE_INFINITY
  for (const flow of flows) if (flow.isOpen) least = Math.min(least, shareLeft(flow))
  const tight: Flow[] = []
  for (const flow of flows) if (flow.isOpen && shareLeft(flow) <= least * (1 + 1e-12)) tight.push(flow)
  for (const flow of tight) give(flow, least)
  return tight.length
}

/** What each of its links has for it, were all others on it as eager. */
function shareLeft({ path }: Flow): number {
  let share = Number.POSITIVE_INFINITY
  for (const { left, open } of path) share = Math.min(share, left / open)
  return share
}

function give(flow: Flow, rateBytesPerMs: number): void {
  flow.isOpen = false
  flow.rateBytesPerMs = Math.min(rateBytesPerMs, Number.MAX_SAFE_INTEGER)
  for (const link of flow.path) {
    link.left = Math.max(0, link.left - flow.rateBytesPerMs)
    link.open -= 1
  }
}
