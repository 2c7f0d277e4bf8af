/**
 * The bound on requests that live, and what it may cost: the core with devices that take, refuse, lose and finish what
 * they are given, in any order, while more is submitted than they can do.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NO_HASHES } from './block-hashes.js'
import { CoordinatorCore } from './coordinator-core.js'
import type { CoordinatorAction, CoordinatorEvent } from './protocol.js'
import { TEST_MODEL_DIGEST, testDevice, testLoad } from './testing/devices.js'

const DEVICES = ['a', 'b', 'c']
const SLOTS_A_DEVICE = 4
const SLOTS = DEVICES.length * SLOTS_A_DEVICE

type Move =
  | { readonly type: 'submit'; readonly priority: number; readonly tenant: string }
  /** A device answers one of its reservations, fails one, or ends one. */
  | { readonly type: 'accept' | 'refuse' | 'finish'; readonly which: number }
  /** All that a device had is lost; it is there again at once, or later. */
  | { readonly type: 'restart' | 'drop' | 'return'; readonly device: number }
  | { readonly type: 'pass'; readonly ms: number }

interface Held {
  readonly requestId: string
  readonly epoch: number
  readonly deviceId: string
  hasBegun: boolean
}

class Crowd {
  readonly #core: CoordinatorCore
  readonly #held = new Map<string, Held>()
  /** Waited and was placed, or began, before. */
  readonly #accepted = new Set<string>()
  readonly #lives = new Map<string, number>()
  readonly #gone = new Set<string>()
  readonly refused: { readonly requestId: string; readonly by: CoordinatorEvent['type'] }[] = []
  #submitted = 0
  #nowMs = 0

  constructor(queuedMax: number) {
    this.#core = new CoordinatorCore({
      ...{ protocolVersion: 1, protocolVersionMin: 1, queuedMax },
      ...{ placementDeadlineMs: 10_000, requestDeadlineMs: 600_000 },
    })
    for (const deviceId of DEVICES) this.#advertise(deviceId)
  }

  get live(): number {
    return this.#core.queuedCount + this.#core.activeCount
  }

  get waiting(): number {
    return this.#core.queuedCount
  }

  play(move: Move): void {
    const held = [...this.#held.values()]
    switch (move.type) {
      case 'submit':
        this.#submitted += 1
        this.#tell({
          ...{ type: 'submit', requestId: `r${this.#submitted}`, modelDigest: TEST_MODEL_DIGEST },
          ...{ profile: 'exact', promptTokens: 20, maxTokens: 64, blockHashes: NO_HASHES },
          ...{ priority: move.priority, tenant: move.tenant },
        })
        return
      case 'accept':
        this.#accept(held.filter(({ hasBegun }) => !hasBegun)[move.which])
        return
      case 'refuse':
        this.#refuse(held.filter(({ hasBegun }) => !hasBegun)[move.which])
        return
      case 'finish':
        this.#finish(held.filter(({ hasBegun }) => hasBegun)[move.which])
        return
      case 'restart':
      case 'return':
        this.#gone.delete(DEVICES[move.device] ?? '')
        this.#advertise(DEVICES[move.device] ?? '')
        return
      case 'drop':
        this.#gone.add(DEVICES[move.device] ?? '')
        return
      case 'pass':
        this.#pass(move.ms)
    }
  }

  #accept(one: Held | undefined): void {
    if (!one) return
    const { requestId, epoch } = one
    one.hasBegun = true
    this.#tell({ type: 'reserved', requestId, epoch })
    this.#tell({ type: 'decode-started', requestId, epoch })
  }

  #refuse(one: Held | undefined): void {
    if (!one) return
    const { requestId, epoch, deviceId } = one
    this.#tell({ type: 'call-failed', call: 'reserve', fault: 'refused', deviceId, requestId, epoch })
  }

  #finish(one: Held | undefined): void {
    if (one)
      this.#tell({ type: 'decode-finished', reason: 'stop', requestId: one.requestId, epoch: one.epoch })
  }

  #advertise(deviceId: string): void {
    const life = (this.#lives.get(deviceId) ?? 0) + 1
    this.#lives.set(deviceId, life)
    const device = testDevice({ deviceId, life, decodeSlots: SLOTS_A_DEVICE })
    this.#tell({ type: 'advertised', device })
    this.#tell({ type: 'load', load: testLoad(device, 1) })
  }

  #pass(ms: number): void {
    for (const endMs = this.#nowMs + ms; this.#nowMs < endMs; ) {
      this.#nowMs += 100
      this.#tell({ type: 'tick' })
    }
  }

  #tell(event: CoordinatorEvent): void {
    for (const action of this.#core.step(event, this.#nowMs)) this.#take(action, event)
  }

  #take(action: CoordinatorAction, event: CoordinatorEvent): void {
    switch (action.type) {
      case 'reserve': {
        const { requestId, epoch, decision } = action
        const { deviceId } = decision.decode
        this.#held.set(requestId, { requestId, epoch, deviceId, hasBegun: false })
        this.#accepted.add(requestId)
        break
      }
      case 'check-health':
        this.#tell({ type: 'health', device: action.device, ok: !this.#gone.has(action.device.deviceId) })
        break
      case 'fail':
        if (action.code === 'overloaded') this.refused.push({ requestId: action.requestId, by: event.type })
        if (action.code === 'overloaded') expect(this.#accepted).not.toContain(action.requestId)
        if (action.code === 'shed') expect(event.type).toBe('submit')
        this.#held.delete(action.requestId)
        break
      case 'abandon':
      case 'finish':
        this.#held.delete(action.requestId)
    }
  }
}

const anyMove: fc.Arbitrary<Move> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      type: fc.constant('submit'),
      priority: fc.integer({ min: 0, max: 1 }),
      tenant: fc.constantFrom('x', 'y'),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({ type: fc.constantFrom('accept', 'refuse', 'finish'), which: fc.nat(3) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ type: fc.constantFrom('restart', 'drop', 'return'), device: fc.nat(2) }),
  },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('pass'), ms: fc.constantFrom(100, 300, 2_000) }) },
)

describe('requests that live', () => {
  test('are no more than may wait and the decode slots, whatever devices do', { timeout: 60_000 }, () => {
    fc.assert(
      fc.property(
        fc.constantFrom(1, 3, 8),
        fc.array(anyMove, { minLength: 20, maxLength: 120 }),
        (queuedMax, moves) => {
          const crowd = new Crowd(queuedMax)
          for (const move of moves) {
            const before = crowd.waiting
            crowd.play(move)
            expect(crowd.live).toBeLessThanOrEqual(queuedMax + SLOTS)
            if (move.type === 'submit') expect(crowd.waiting).toBeLessThanOrEqual(Math.max(queuedMax, before))
          }
        },
      ),
      { numRuns: 200 },
    )
  })

  test('all wait anew when every device dies at once, and only what comes then is refused', () => {
    const crowd = new Crowd(2)
    const submit: Move = { type: 'submit', priority: 0, tenant: 'x' }
    for (let count = 0; count < SLOTS; count += 1) crowd.play(submit)
    for (let count = 0; count < SLOTS; count += 1) crowd.play({ type: 'accept', which: 0 })
    expect(crowd.waiting).toBe(0)
    for (const device of DEVICES.keys()) crowd.play({ type: 'drop', device })
    crowd.play({ type: 'pass', ms: 6_000 })
    expect(crowd.waiting).toBe(SLOTS)
    crowd.play(submit)
    expect(crowd.refused).toEqual([{ requestId: `r${SLOTS + 1}`, by: 'submit' }])
    for (const device of DEVICES.keys()) crowd.play({ type: 'return', device })
    expect(crowd.waiting).toBe(0)
    expect(crowd.live).toBe(SLOTS)
  })
})
