/** Runs of steps told of as one, against the same steps told of one by one, over random histories. */
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { AgentCore } from './agent-core.js'
import type { CoreOptions } from './core-options.js'
import type { CoreAction, CoreEvent, StepPart } from './events.js'

type Run = Extract<CoreAction, { type: 'run-step' }>

const STEP_MS = 1
const LEASE_TTL_MS = 100
const HBM = { name: 'hbm', blocks: 40, bytesPerSecond: 400 }
const DDR = { name: 'ddr', blocks: 80, bytesPerSecond: 100 }

type Drawn = Pick<CoreOptions, 'tiers' | 'tierPolicy' | 'blockTokens' | 'decodesAtOnce'> & {
  readonly rowsMax: number
}

const options: fc.Arbitrary<Drawn> = fc.record({
  tiers: fc.constantFrom([{ ...HBM, blocks: 120 }], [{ ...HBM, blocks: 900 }], [HBM, DDR]),
  tierPolicy: fc.constantFrom('static' as const, 'reactive' as const, 'balanced' as const),
  blockTokens: fc.constantFrom(4, 16, 512),
  decodesAtOnce: fc.constantFrom(1, 2, 100),
  rowsMax: fc.constantFrom(3, 64),
})

const pick = fc.nat(20)
const prompt = fc.integer({ min: 1, max: 400 })
const asked = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      type: fc.constant('decode' as const),
      text: fc.nat(3),
      prompt,
      room: fc.nat(300),
      tokensMax: fc.integer({ min: 1, max: 900 }),
      kv: fc.constantFrom('pulled' as const, 'computed' as const),
      // Tokens until one is a stop token.
      stopsAfter: fc.integer({ min: 1, max: 900 }),
      namesBlocks: fc.boolean(),
      tellsReads: fc.boolean(),
    }),
  },
  { weight: 3, arbitrary: fc.record({ type: fc.constant('prefill' as const), text: fc.nat(3), prompt }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('reserve' as const), text: fc.nat(3), prompt }) },
  {
    weight: 8,
    arbitrary: fc.record({
      type: fc.constantFrom('received' as const, 'received', 'sent', 'end', 'lend', 'return', 'pin', 'unpin'),
      pick,
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constantFrom('evict' as const, 'tick') }) },
)
const history = fc.array(fc.record({ asked, steps: fc.oneof(fc.constant(0), fc.nat(5), fc.nat(120)) }), {
  maxLength: 60,
  size: 'max',
})

interface Known {
  readonly id: number
  readonly counter: bigint
  readonly namesBlocks: boolean
  readonly tellsReads: boolean
  stopsAfter: number
}

/** What both cores are told, and what the one that is told of each step answered. */
class Pair {
  readonly single: AgentCore
  readonly runs: AgentCore
  nowMs = 0
  /** Steps that were told of as part of a longer run. */
  saved = 0
  private running: Run | undefined
  /** Steps that the running one may stand for, as the core said last. */
  private repeatable = 0
  private readonly known = new Map<number, Known>()
  private readonly leases = new Set<bigint>()
  private readonly pins: bigint[] = []
  private readonly loans: number[] = []
  private last = 0

  constructor(private readonly options: CoreOptions) {
    this.single = new AgentCore(options)
    this.runs = new AgentCore(options)
  }

  ask(item: typeof asked extends fc.Arbitrary<infer Asked> ? Asked : never): void {
    switch (item.type) {
      case 'reserve':
        this.reserve(item.text, item.prompt, 0)
        return
      case 'prefill': {
        this.last += 1
        const own = { requestId: `r${this.last}`, epoch: 1, hashes: this.hashes(item.text, item.prompt) }
        this.tell({ type: 'prefill', sequence: this.last, ...own, promptTokens: item.prompt, fetchTokens: 0 })
        return
      }
      case 'decode':
        this.decode(item)
        return
      case 'received':
      case 'sent':
      case 'end': {
        const known = [...this.known.values()]
        const sequence = known[item.pick % Math.max(1, known.length)]?.id ?? item.pick
        if (item.type === 'received') this.tell({ type: 'received', sequence, stopped: false })
        else if (item.type === 'sent') this.tell({ type: 'sent', sequence: item.pick, blocks: 1 })
        else this.tell({ type: 'end', sequence, cause: 'cancelled' })
        return
      }
      case 'pin': {
        // A lease whose time is up has ended.
        this.tell({ type: 'tick' })
        const counter = [...this.leases][item.pick % Math.max(1, this.leases.size)]
        if (counter === undefined) return
        this.pins.push(counter)
        this.tell({ type: 'pin', counter })
        return
      }
      case 'unpin': {
        const counter = this.pins.pop()
        if (counter !== undefined) this.tell({ type: 'unpin', counter })
        return
      }
      case 'lend': {
        const answer = this.tell({ type: 'lend', hashes: this.hashes(item.pick % 4, 200) })
        for (const action of answer)
          if (action.type === 'lent' && action.loan > 0) this.loans.push(action.loan)
        return
      }
      case 'return': {
        const loan = this.loans.pop()
        if (loan !== undefined) this.tell({ type: 'return', loan })
        return
      }
      case 'evict':
        this.tell({ type: 'evict', drop: false })
        return
      case 'tick':
        this.tell({ type: 'tick' })
    }
  }

  /** Time passes in which so many steps end, where any run. */
  pass(steps: number): void {
    let left = steps
    while (left > 0 && this.running !== undefined) {
      const run = this.running
      const count = Math.min(left, this.repeatable, this.ownLimit(run.parts))
      const single: CoreAction[] = []
      for (let step = 0; step < count; step += 1) {
        const isLast = step === count - 1
        const event = this.finished(run.parts, step, isLast)
        const actions = this.single.step(event, this.nowMs + (step + 1) * STEP_MS)
        if (!isLast) {
          // Only the next step, of the same sequences one row further.
          expect(actions.map(({ type }) => type)).toEqual(['run-step'])
          const next = actions[0]?.type === 'run-step' ? actions[0].parts : []
          expect(next.map(({ sequence, start }) => [sequence, start])).toEqual(
            run.parts.map(({ sequence, start }) => [sequence, start + step + 1]),
          )
        } else single.push(...actions)
      }
      this.nowMs += count * STEP_MS
      left -= count
      this.saved += count - 1
      const event = { ...this.finished(run.parts, count - 1, true), steps: count }
      this.running = undefined
      this.compare(this.runs.step(event, this.nowMs), single)
      for (const part of run.parts) {
        const known = this.known.get(part.sequence)
        if (known !== undefined && part.wantLogits) known.stopsAfter -= count
      }
    }
    this.nowMs += left * STEP_MS
  }

  private decode(item: Extract<Parameters<Pair['ask']>[0], { type: 'decode' }>): void {
    const { text, prompt, room, tokensMax, kv, stopsAfter, namesBlocks, tellsReads } = item
    const reserved = this.reserve(text, prompt, room)
    if (reserved === undefined) return
    const { deviceId, incarnation } = this.options
    const { counter, ...own } = reserved
    this.last += 1
    this.known.set(this.last, { id: this.last, counter, namesBlocks, tellsReads, stopsAfter })
    this.tell({
      ...{ type: 'decode', sequence: this.last, lease: { deviceId, incarnation, counter }, ...own },
      ...{ promptTokens: prompt, firstIndex: 0, tokensMax, kv, fetchTokens: 0, offload: undefined },
    })
  }

  private reserve(text: number, prompt: number, room: number) {
    this.last += 1
    const own = { requestId: `r${this.last}`, epoch: 1, hashes: this.hashes(text, prompt) }
    const actions = this.tell({ type: 'reserve', ...own, tokens: prompt + room, purpose: 'decode' })
    const granted = actions.find((action) => action.type === 'granted')
    if (granted === undefined) return undefined
    this.leases.add(granted.counter)
    return { ...own, counter: granted.counter }
  }

  private tell(event: CoreEvent): readonly CoreAction[] {
    const actions = this.single.step(event, this.nowMs)
    this.compare(this.runs.step(event, this.nowMs), actions)
    return actions
  }

  private compare(runs: readonly CoreAction[], single: readonly CoreAction[]): void {
    same(runs, single)
    for (const action of runs) {
      if (action.type === 'run-step') {
        this.running = action
        this.repeatable = action.repeatable
      } else if (action.type === 'repeat-less') this.repeatable = action.repeatable
      else if (action.type === 'sequence-ended') this.known.delete(action.sequence)
      else if (action.type === 'admitted') this.leases.add(action.counter)
      else if (action.type === 'lease-ended') this.leases.delete(action.counter)
    }
    same(this.runs.load(), this.single.load())
    same([...this.runs.storedHashes()], [...this.single.storedHashes()])
    for (const counter of this.leases) same(this.runs.blocks(counter), this.single.blocks(counter))
  }

  /** As far as the shell itself lets a run go: to the next stop token, named block or end of a lease. */
  private ownLimit(parts: readonly StepPart[]): number {
    const { blockTokens = 16 } = this.options
    const untilMs = this.single.nextExpiryMs - this.nowMs
    let most = Math.max(1, Math.ceil(untilMs / STEP_MS))
    for (const { sequence, start, wantLogits } of parts) {
      const known = this.known.get(sequence)
      if (wantLogits) most = Math.min(most, Math.max(1, known?.stopsAfter ?? 1))
      if (known?.namesBlocks === true) most = Math.min(most, blockTokens - (start % blockTokens))
    }
    return most
  }

  /** The end of a step, `ahead` steps after the one that runs. */
  private finished(parts: readonly StepPart[], ahead: number, isLast: boolean) {
    const { blockTokens = 16 } = this.options
    const stopped: number[] = []
    const filled: { sequence: number; hash: string }[] = []
    const reads: { sequence: number; reads: Float32Array; mass: Float32Array }[] = []
    for (const { sequence, role, start, wantLogits } of parts) {
      const known = this.known.get(sequence)
      if (known === undefined) continue
      const end = start + ahead + 1
      if (isLast && wantLogits && known.stopsAfter <= ahead + 1) stopped.push(sequence)
      if (role !== 'decode') continue
      if (known.namesBlocks && end % blockTokens === 0) filled.push({ sequence, hash: `${sequence}/${end}` })
      const read = Float32Array.from([1, 0, 0.5])
      if (known.tellsReads) reads.push({ sequence, reads: read, mass: read })
    }
    const elapsedUs = 1_000 * (parts.length + (parts[0]?.start ?? 0) / 100)
    return { type: 'step-finished' as const, cancelled: false, stopped, failed: [], filled, reads, elapsedUs }
  }

  private hashes(text: number, tokens: number): string[] {
    const pages = Math.floor(tokens / (this.options.blockTokens ?? 16))
    return Array.from({ length: pages }, (_, page) => (page === 0 ? 'common' : `${text}:${page}`))
  }
}

/** As `toEqual`, which takes long for long lists. */
function same(a: unknown, b: unknown): void {
  if (!isDeepStrictEqual(a, b)) expect(a).toEqual(b)
}

function coreOptions({ rowsMax, ...over }: Drawn): CoreOptions {
  return {
    ...{ deviceId: 'fpga-0', incarnation: 7n, leaseTtlMs: LEASE_TTL_MS, blockBytes: 64 },
    ...{ decodeSlots: 6, waitingMax: 4, contextTokensMax: 1_500 },
    ...over,
    limits: { rowsMax, chunkTokens: 64, sharedChunkTokens: 32 },
  }
}

describe('steps told of as one', () => {
  it('leave the core as the same steps one by one, wherever they are cut off', () => {
    let saved = 0
    fc.assert(
      fc.property(options, history, (options, history) => {
        const pair = new Pair(coreOptions(options))
        for (const { asked, steps } of history) {
          pair.ask(asked)
          pair.pass(steps)
        }
        pair.pass(500)
        saved += pair.saved
      }),
      { numRuns: 100 },
    )
    // It does happen.
    expect(saved).toBeGreaterThan(5_000)
  })

  it('are never more than were said to be the same', () => {
    const core = new AgentCore(
      coreOptions({ tiers: [HBM], tierPolicy: 'static', blockTokens: 16, decodesAtOnce: 9, rowsMax: 9 }),
    )
    const own = { requestId: 'a', epoch: 1, hashes: [] }
    const reserve = { type: 'reserve', tokens: 40, purpose: 'decode' } as const
    core.step({ ...reserve, ...own }, 0)
    const lease = { deviceId: 'fpga-0', incarnation: 7n, counter: 1n }
    const decode = { sequence: 1, promptTokens: 20, firstIndex: 0, tokensMax: 9, kv: 'pulled' } as const
    core.step({ type: 'decode', lease, ...own, ...decode, fetchTokens: 0, offload: undefined }, 0)
    const [run] = core.step({ type: 'received', sequence: 1, stopped: false }, 0)
    // One token came with the KV.
    expect(run).toMatchObject({ type: 'run-step', repeatable: 8 })
    const nothing = { cancelled: false, stopped: [], failed: [], filled: [], reads: [] }
    const finished = { type: 'step-finished', ...nothing, elapsedUs: 1 } as const
    expect(() => core.step({ ...finished, steps: 9 }, 0)).toThrow('at most 8')
    // Whoever waits for the next step must not wait for the whole run.
    const prefill = { type: 'prefill', sequence: 2, promptTokens: 20, fetchTokens: 0 } as const
    const actions = core.step({ ...prefill, ...own, requestId: 'b' }, 0)
    expect(actions).toContainEqual({ type: 'repeat-less', repeatable: 1 })
  })
})
