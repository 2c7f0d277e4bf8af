/**
 * No wait goes on for longer than it may, whatever devices answer: the core driven by hand, with
 * devices that answer always alike.
 */
import { expect, test } from 'vitest'
import { NO_HASHES } from './block-hashes.js'
import { CoordinatorCore, TICK_MS } from './coordinator-core.js'
import type { DeviceFacts, LoadFacts } from './facts.js'
import type { CoordinatorAction, CoordinatorEvent, Fault } from './protocol.js'
import { TEST_MODEL_DIGEST, testDevice, testLoad } from './testing/devices.js'

const PLACEMENT_DEADLINE_MS = 10_000

class Hand {
  readonly actions: (CoordinatorAction & { readonly atMs: number })[] = []
  nowMs = 0
  onReserve: (action: Extract<CoordinatorAction, { type: 'reserve' }>) => CoordinatorEvent | undefined = () =>
    undefined
  healthy = (_deviceId: string): boolean => true
  /** Models that are on their way to every device. */
  arriving: LoadFacts['arriving'] = []
  readonly #devices: readonly DeviceFacts[]
  readonly #core = new CoordinatorCore({
    ...{ protocolVersion: 1, protocolVersionMin: 1, queuedMax: 16 },
    ...{ placementDeadlineMs: PLACEMENT_DEADLINE_MS, requestDeadlineMs: 600_000 },
  })

  constructor(devices: readonly DeviceFacts[]) {
    this.#devices = devices
    for (const device of devices) this.tell({ type: 'advertised', device })
  }

  tell(event: CoordinatorEvent): void {
    for (const action of this.#core.step(event, this.nowMs)) {
      this.actions.push({ ...action, atMs: this.nowMs })
      if (action.type === 'check-health') {
        const ok = this.healthy(action.device.deviceId)
        this.tell({ type: 'health', device: action.device, ok })
      }
      const answer = action.type === 'reserve' ? this.onReserve(action) : undefined
      if (answer) this.tell(answer)
    }
  }

  submit(requestId: string, promptTokens = 100): void {
    const profile = 'exact'
    this.tell({
      type: 'submit',
      requestId,
      modelDigest: TEST_MODEL_DIGEST,
      profile,
      promptTokens,
      maxTokens: 64,
      blockHashes: NO_HASHES,
    })
  }

  /** Lets time pass; devices report as they do. */
  pass(ms: number): void {
    for (const endMs = this.nowMs + ms; this.nowMs < endMs; ) {
      this.nowMs += TICK_MS
      if (this.nowMs % 500 === 0) {
        for (const device of this.#devices) {
          const load = { ...testLoad(device, this.nowMs), arriving: this.arriving }
          this.tell({ type: 'load', load })
        }
      }
      this.tell({ type: 'tick' })
    }
  }

  of<T extends CoordinatorAction['type']>(type: T) {
    return this.actions.filter((action) => action.type === type) as (Extract<
      CoordinatorAction,
      { type: T }
    > & {
      readonly atMs: number
    })[]
  }
}

function failed(
  { requestId, epoch, decision }: Extract<CoordinatorAction, { type: 'reserve' }>,
  fault: Fault,
): CoordinatorEvent {
  return { type: 'call-failed', requestId, epoch, call: 'reserve', fault, deviceId: decision.decode.deviceId }
}

test('a stream that lost its device and is refused by all others ends at the placement deadline', () => {
  const hand = new Hand([testDevice({ deviceId: 'fpga-0' })])
  hand.pass(500)
  hand.submit('talk')
  const epoch = { requestId: 'talk', epoch: 1 }
  hand.tell({ type: 'reserved', ...epoch })
  hand.tell({ type: 'tokens', ...epoch, firstIndex: 0, count: 3 })
  hand.pass(20_000)
  hand.onReserve = (action) => failed(action, 'refused')
  hand.tell({ type: 'call-failed', ...epoch, call: 'decode', fault: 'lease-expired', deviceId: 'fpga-0' })
  const lostAtMs = hand.nowMs
  hand.pass(2 * PLACEMENT_DEADLINE_MS)
  const [fail] = hand.of('fail')
  expect(fail).toMatchObject({ code: 'unavailable' })
  expect((fail?.atMs ?? 0) - lostAtMs).toBeLessThanOrEqual(PLACEMENT_DEADLINE_MS + TICK_MS)
})

test('a device that reports but cannot be reached is left alone until it answers', () => {
  const hand = new Hand([testDevice({ deviceId: 'fpga-0' }), testDevice({ deviceId: 'fpga-1' })])
  hand.pass(500)
  hand.healthy = (deviceId) => deviceId !== 'fpga-0'
  hand.onReserve = (action) =>
    action.decision.decode.deviceId === 'fpga-0' ? failed(action, 'unreachable') : undefined
  for (let i = 0; i < 40; i++) {
    hand.submit(`request-${i}`)
    hand.pass(500)
    hand.tell({ type: 'cancel', requestId: `request-${i}` })
  }
  const tried = () =>
    hand.of('reserve').filter(({ decision }) => decision.decode.deviceId === 'fpga-0').length
  expect(tried()).toBe(1)
  hand.healthy = () => true
  hand.onReserve = () => undefined
  hand.pass(1_500)
  hand.submit('a')
  hand.submit('b')
  expect(tried()).toBe(2)
})

test('a request that no device has the memory for holds up no other one', () => {
  const hand = new Hand([testDevice({ deviceId: 'fpga-0', kvTokens: 512 })])
  hand.pass(500)
  hand.submit('huge', 1_000)
  hand.submit('small', 100)
  expect(hand.of('reserve').map(({ requestId }) => requestId)).toEqual(['small'])
})

test('a request that every device is too small for is told to be smaller, not to try again', () => {
  const hand = new Hand([
    testDevice({ deviceId: 'fpga-0', kvTokens: 512 }),
    testDevice({ deviceId: 'host-0', capabilities: ['kv-tier'] }),
  ])
  hand.pass(500)
  hand.submit('huge', 1_000)
  hand.pass(1_000)
  expect(hand.of('fail')).toMatchObject([
    {
      code: 'unavailable',
      message: expect.stringMatching(/too small for it even when empty.*; shorten the prompt .* more memory/),
    },
  ])
})

test('a device that is about to have the model is waited for, however small the others are', () => {
  const small = testDevice({ deviceId: 'fpga-0', kvTokens: 512 })
  const hand = new Hand([small])
  hand.arriving = [{ digest: TEST_MODEL_DIGEST, profile: 'exact' }]
  hand.pass(500)
  hand.submit('huge', 1_000)
  hand.pass(2_000)
  expect(hand.of('fail')).toEqual([])
  hand.arriving = []
  hand.pass(1_000)
  expect(hand.of('fail')).toHaveLength(1)
})
