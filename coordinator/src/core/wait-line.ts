/**
 * The requests that wait for one model in one profile.
 *
 * Between tenants it is start-time fair queueing (Goyal et al.) on the work of requests in tokens, prompt and expected
 * answer: a tenant's clock advances by the work it is given, divided by its weight, and of those with the highest
 * priority the tenant whose clock is furthest behind comes first. A tenant that comes back after a while begins at the
 * clock of the one that was served last, so that nobody saves up a share.
 *
 * L1. While tenants contend each gets at least its weight's share of the work, but for one request.
 * L2. Of SERVED_IN_A_ROW placements at most one goes to a lower priority: to the request that waited longest, if for
 *     PATIENCE_MS. So nothing waits for ever, and no priority is held up by more than that.
 * L3. Of tenants that do not wait no more than TENANTS_MAX are remembered.
 */
import { Heap, type Heaped } from './heap.js'

export interface Waiting {
  readonly requestId: string
  /** Counts submissions. */
  readonly arrival: number
  readonly submittedAtMs: number
  readonly hasBegun: boolean
  /** Of model and profile. */
  readonly line: string
  readonly tenant: string
  /** Higher comes first. */
  readonly priority: number
  /** Prompt and expected answer. */
  readonly workTokens: number
  /** Among equal priorities of one tenant the lowest comes first, and of equal ones the first that came. */
  readonly orderKey: number
}

/** Of a tenant's share, above 0. */
export type WeightOf = (tenant: string) => number

export const SERVED_IN_A_ROW = 16
export const PATIENCE_MS = 1_000
const TENANTS_MAX = 1_024
/** Of a tenant's newest so many are looked at for one that is late. */
const NEWEST_LOOKED_AT = 8

const IN_ORDER = 0
const BY_ARRIVAL = 1

interface Entry<R> extends Heaped {
  readonly request: R
  readonly turns: Turns<R> | undefined
  isGone: boolean
}

/** One tenant's requests of one priority. */
interface Turns<R> extends Heaped {
  readonly level: Level<R>
  readonly flow: Flow<R>
  readonly entries: Heap<Entry<R>>
  /** As they came, those that have left among them. */
  newest: Entry<R>[]
  tokens: number
}

interface Level<R> {
  readonly priority: number
  readonly turns: Heap<Turns<R>>
  readonly byTenant: Map<string, Turns<R>>
  tokens: number
}

interface Flow<R> {
  readonly weight: number
  clock: number
  waiting: number
  readonly turns: Set<Turns<R>>
}

export class WaitLine<R extends Waiting> {
  readonly #weightOf: WeightOf
  readonly #entries = new Map<string, Entry<R>>()
  readonly #begun = new Heap<Entry<R>>(IN_ORDER, isEarlier)
  readonly #byArrival = new Heap<Entry<R>>(BY_ARRIVAL, isEarlier)
  /** Highest priority first; none is empty. */
  readonly #levels: Level<R>[] = []
  readonly #flows = new Map<string, Flow<R>>()
  /** Of the tenant that was served last, before it was charged. */
  #clock = 0
  /** Placements since the last one that went to who waited longest. */
  #inARow = 0

  constructor(weightOf: WeightOf) {
    this.#weightOf = weightOf
  }

  get length(): number {
    return this.#entries.size
  }

  /** Who is next. */
  first(nowMs: number): R | undefined {
    const begun = this.#begun.first
    if (begun) return begun.request
    const longest = this.#byArrival.first
    if (longest && this.#isDue(longest, nowMs)) return longest.request
    return this.#levels[0]?.turns.first?.entries.first?.request
  }

  add(request: R): void {
    if (request.hasBegun) {
      const entry = { request, turns: undefined, isGone: false, places: [-1, -1] }
      this.#entries.set(request.requestId, entry)
      this.#begun.add(entry)
      return
    }
    const flow = this.#flowOf(request.tenant)
    if (flow.waiting === 0) this.#setClock(flow, Math.max(flow.clock, this.#clock))
    flow.waiting += 1
    const turns = this.#turnsOf(request, flow)
    const entry = { request, turns, isGone: false, places: [-1, -1] }
    this.#entries.set(request.requestId, entry)
    this.#byArrival.add(entry)
    turns.entries.add(entry)
    turns.newest.push(entry)
    turns.tokens += request.workTokens
    turns.level.tokens += request.workTokens
    turns.level.turns.moved(turns)
  }

  /** It has its place: its tenant is charged. */
  take(request: R): void {
    const entry = this.#entries.get(request.requestId)
    if (!entry) return
    const isLongest = entry === this.#byArrival.first
    this.#inARow = isLongest ? 0 : this.#inARow + 1
    const clock = this.#flows.get(request.tenant)?.clock
    if (entry.turns && clock !== undefined) this.#clock = Math.max(this.#clock, clock)
    this.remove(request)
    // One that had begun was charged when it was placed first.
    if (entry.turns) this.charge(request.tenant, request.workTokens)
  }

  /** Whether it was here. */
  remove({ requestId }: R): boolean {
    const entry = this.#entries.get(requestId)
    if (!entry) return false
    this.#entries.delete(requestId)
    entry.isGone = true
    const { turns } = entry
    if (!turns) {
      this.#begun.remove(entry)
      return true
    }
    const { flow, level } = turns
    this.#byArrival.remove(entry)
    turns.entries.remove(entry)
    turns.tokens -= entry.request.workTokens
    level.tokens -= entry.request.workTokens
    flow.waiting -= 1
    if (turns.entries.length === 0) this.#endTurns(turns, entry.request.tenant)
    else level.turns.moved(turns)
    if (turns.newest.length > 2 * turns.entries.length + NEWEST_LOOKED_AT) {
      turns.newest = turns.newest.filter(({ isGone }) => !isGone)
    }
    return true
  }

  /** Moves the tenant's clock by work that it was given, or was not given after all. */
  charge(tenant: string, tokens: number): void {
    const flow = this.#flows.get(tenant)
    if (flow) this.#setClock(flow, flow.clock + tokens / flow.weight)
  }

  /**
   * Work that comes before one that would come now, in tokens: that of higher priorities, and of its own priority
   * what the shares of the tenants let pass, at most all.
   */
  tokensAhead({ priority, tenant, requestId }: Waiting): number {
    let higher = 0
    for (const level of this.#levels) {
      if (level.priority > priority) higher += level.tokens
      if (level.priority !== priority) continue
      const own = level.byTenant.get(tenant)
      const self = this.#entries.get(requestId)?.request.workTokens ?? 0
      const weight = own?.flow.weight ?? this.#weightOf(tenant)
      let weights = own ? 0 : weight
      for (const { flow } of level.byTenant.values()) weights += flow.weight
      const ownTokens = (own?.tokens ?? 0) - self
      return higher + Math.min(level.tokens - self, (ownTokens * weights) / weight)
    }
    return higher
  }

  /** See WaitQueue.leastWorth; `share`: work that waits by weight. */
  leastWorth(
    isLate: (request: R) => boolean,
  ): { readonly priority: number; readonly share: number; readonly request: R } | undefined {
    const level = this.#levels.at(-1)
    if (!level) return undefined
    let most: Turns<R> | undefined
    for (const turns of level.byTenant.values()) {
      if (!most || turns.tokens / turns.flow.weight > most.tokens / most.flow.weight) most = turns
    }
    if (!most) return undefined
    const newest = newestOf(most)
    const entry = newest.find(({ request }) => isLate(request)) ?? newest[0]
    const share = most.tokens / most.flow.weight
    return entry && { priority: level.priority, share, request: entry.request }
  }

  #isDue({ request }: Entry<R>, nowMs: number): boolean {
    return this.#inARow >= SERVED_IN_A_ROW - 1 && nowMs - request.submittedAtMs >= PATIENCE_MS
  }

  #flowOf(tenant: string): Flow<R> {
    const known = this.#flows.get(tenant)
    if (known) return known
    if (this.#flows.size >= TENANTS_MAX) this.#forgetFlows()
    const flow: Flow<R> = { weight: this.#weightOf(tenant), clock: this.#clock, waiting: 0, turns: new Set() }
    this.#flows.set(tenant, flow)
    return flow
  }

  /** First those that would begin at the line's clock anyway; else whoever has been there longest and does not wait. */
  #forgetFlows(): void {
    for (const [tenant, { waiting, clock }] of this.#flows) {
      if (waiting === 0 && clock <= this.#clock) this.#flows.delete(tenant)
    }
    for (const [tenant, { waiting }] of this.#flows) {
      if (this.#flows.size < TENANTS_MAX) return
      if (waiting === 0) this.#flows.delete(tenant)
    }
  }

  #setClock(flow: Flow<R>, clock: number): void {
    flow.clock = clock
    for (const turns of flow.turns) turns.level.turns.moved(turns)
  }

  #turnsOf({ tenant, priority }: R, flow: Flow<R>): Turns<R> {
    let at = this.#levels.findIndex((level) => level.priority <= priority)
    if (at < 0) at = this.#levels.length
    let level = this.#levels[at]
    if (level?.priority !== priority) {
      level = {
        priority,
        turns: new Heap<Turns<R>>(IN_ORDER, isFurtherBehind),
        byTenant: new Map(),
        tokens: 0,
      }
      this.#levels.splice(at, 0, level)
    }
    const known = level.byTenant.get(tenant)
    if (known) return known
    const entries = new Heap<Entry<R>>(IN_ORDER, isInOrder)
    const turns: Turns<R> = { level, flow, entries, newest: [], tokens: 0, places: [-1] }
    level.byTenant.set(tenant, turns)
    level.turns.add(turns)
    flow.turns.add(turns)
    return turns
  }

  #endTurns(turns: Turns<R>, tenant: string): void {
    const { level, flow } = turns
    level.byTenant.delete(tenant)
    level.turns.remove(turns)
    flow.turns.delete(turns)
    if (level.byTenant.size === 0) this.#levels.splice(this.#levels.indexOf(level), 1)
  }
}

function isEarlier<R extends Waiting>(a: Entry<R>, b: Entry<R>): boolean {
  return a.request.arrival < b.request.arrival
}

function isInOrder<R extends Waiting>(a: Entry<R>, b: Entry<R>): boolean {
  const by = a.request.orderKey - b.request.orderKey
  return by === 0 ? isEarlier(a, b) : by < 0
}

/** Of tenants whose clocks are equal the one whose next request came first. */
function isFurtherBehind<R extends Waiting>(a: Turns<R>, b: Turns<R>): boolean {
  if (a.flow.clock !== b.flow.clock) return a.flow.clock < b.flow.clock
  return (a.entries.first?.request.arrival ?? 0) < (b.entries.first?.request.arrival ?? 0)
}

/** The newest few that wait, newest first. */
function newestOf<R extends Waiting>({ newest }: Turns<R>): Entry<R>[] {
  const found: Entry<R>[] = []
  for (let at = newest.length - 1; at >= 0 && found.length < NEWEST_LOOKED_AT; at -= 1) {
    const entry = newest[at]
    if (entry && !entry.isGone) found.push(entry)
  }
  return found.sort((a, b) => b.request.arrival - a.request.arrival)
}
