/** What each policy does that the others do not. */
import { describe, expect, test } from 'vitest'
import { NO_HASHES } from '../block-hashes.js'
import { CoordinatorCore } from '../coordinator-core.js'
import { explain, filterCounts } from '../decision.js'
import type { PolicySetting } from '../placement-policy.js'
import type { CoordinatorAction } from '../protocol.js'
import { TEST_MODEL_DIGEST, testDevice, testLoad } from '../testing/devices.js'
import { ORDERS } from './orders.js'
import { PICKS } from './picks.js'
import { ORDER_NAMES, PICK_NAMES } from './policy-names.js'

type Reserve = Extract<CoordinatorAction, { type: 'reserve' }>

const GPU = { capabilities: ['prefill', 'decode'], opsPerSecond: 1e12, bytesPerSecond: 40e9 } as const
const FPGA = { capabilities: ['decode', 'prefill'], decodeSlots: 1, modelled: true } as const
const DEVICES = [
  testDevice({ deviceId: 'gpu-0', ...GPU, modelled: true }),
  testDevice({ deviceId: 'gpu-1', ...GPU, modelled: true }),
  testDevice({ deviceId: 'fpga-0', ...FPGA }),
  testDevice({ deviceId: 'fpga-1', ...FPGA }),
]

/** Places of `count` equal requests on two GPUs and two FPGAs with a slot each. */
function placed(policy: PolicySetting, count: number, devices = DEVICES): Reserve[] {
  const core = new CoordinatorCore({
    ...{ protocolVersion: 1, protocolVersionMin: 1, queuedMax: 16 },
    ...{ placementDeadlineMs: 10_000, requestDeadlineMs: 600_000, policy },
  })
  for (const device of devices) {
    core.step({ type: 'advertised', device }, 0)
    core.step({ type: 'load', load: testLoad(device, 1) }, 0)
  }
  const model = { modelDigest: TEST_MODEL_DIGEST, profile: 'exact' as const, blockHashes: NO_HASHES }
  return Array.from({ length: count }, (_, index) => String(index)).flatMap((requestId) => {
    const asked = { type: 'submit', requestId, ...model, promptTokens: 1_000, maxTokens: 100 } as const
    return core.step(asked, 0).filter((action) => action.type === 'reserve')
  })
}

function pairsOf(places: readonly Reserve[]): string[] {
  return places.map(({ decision }) => `${decision.prefill.deviceId} ${decision.decode.deviceId}`)
}

describe('picking', () => {
  test('has every policy by its name', () => {
    expect(PICK_NAMES.map((name) => PICKS[name].name)).toEqual([...PICK_NAMES])
  })

  test('by the house rule lets GPUs decode once every FPGA is busy', () => {
    expect(pairsOf(placed({}, 3))).toEqual([
      'gpu-0 fpga-0',
      'gpu-1 fpga-1',
      expect.stringMatching(/gpu-\d gpu-\d/),
    ])
  })

  test('by earliest finish takes the faster device, whatever it prefers', () => {
    const [first] = placed({ pick: 'earliest-finish' }, 1)
    expect(first?.decision.decode.deviceId).toMatch(/gpu/)
    expect(first && explain(first.decision)).toContain('predicted to finish first')
  })

  test('by static affinity takes the emptiest of those bound to a stage', () => {
    expect(pairsOf(placed({ pick: 'static-affinity' }, 2))).toEqual(['gpu-0 fpga-0', 'gpu-1 fpga-1'])
  })

  test('in turn goes round the devices that have room', () => {
    const many = [...DEVICES, testDevice({ deviceId: 'fpga-2', ...FPGA, decodeSlots: 8 })]
    const [first, second, third] = placed({ pick: 'round-robin' }, 3, many)
    expect(first?.decision.prefill).not.toEqual(second?.decision.prefill)
    expect(first?.decision.prefill).toEqual(third?.decision.prefill)
    expect(new Set(pairsOf([first, second].flatMap((one) => one ?? []))).size).toBe(2)
  })
})

describe('decode assistance', () => {
  test.each(PICK_NAMES)('off: no GPU decodes while FPGAs are there, with %s', (pick) => {
    const places = placed({ pick, decodeAssist: false }, 3)
    expect(pairsOf(places)).toHaveLength(2)
    expect(places.every(({ decision }) => decision.decode.deviceId.startsWith('fpga'))).toBe(true)
    const [first] = places
    expect(first && filterCounts(first.decision.filtered.decode)).toEqual({ assist: 2 })
  })

  test('off: GPUs decode where there is nothing else', () => {
    expect(placed({ decodeAssist: false }, 3, DEVICES.slice(0, 2))).toHaveLength(3)
  })
})

describe('ordering', () => {
  const request = { arrival: 7, dueMs: 900, prefillMs: () => 300, workTokens: 1_234 }

  test('has every policy by its name', () => {
    expect(ORDER_NAMES.map((name) => ORDERS[name].name)).toEqual([...ORDER_NAMES])
  })

  test.each([
    ['fcfs', 7],
    ['edf', 900],
    ['least-slack', 600],
    ['value', 1_234],
  ] as const)('%s goes by its own figure', (name, key) => {
    expect(ORDERS[name].key(request)).toBe(key)
  })
})
