/**
 * A seed's case: a cluster so small that its memory, slots and queues are short; requests that share beginnings and whose
 * clients may leave; faults that overlap. After the storm a few requests come that must be served.
 */
import { ORDER_NAMES, PICK_NAMES } from '@kvasir/coordinator/core/policies/policy-names'
import type { VirtualRequest } from '../cluster/request.js'
import { Dice } from './dice.js'
import type { CaseCluster, CaseDevice, ClusterFault, FaultCase, FaultKind } from './fault-case.js'

const DEVICES_MAX = 5
/** After the last fault, so that every device is heard of again and what waited has ended. */
const SETTLE_MS = 7_000
const CALM_REQUESTS = 3
/** Names of blocks: those of one beginning follow each other. */
const FAMILY_BLOCKS = 10_000
const OWN_BLOCKS = 1_000_000

export function caseOf(seed: number): FaultCase {
  const dice = new Dice(seed)
  const cluster = clusterOf(dice)
  const stormMs = dice.pick([700, 2_000, 5_000])
  const faults = dice.chance(0.04) ? [] : faultsOf(dice, cluster, stormMs)
  const stormy = requestsOf(dice, cluster, stormMs)
  const overMs = faults.reduce((ms, { atMs, forMs }) => Math.max(ms, atMs + forMs), stormMs)
  const calmFromMs = overMs + Math.max(SETTLE_MS, cluster.requestDeadlineMs) + 1_000
  const calm = Array.from(
    { length: CALM_REQUESTS },
    (_, index): VirtualRequest => ({
      requestId: `calm${index}`,
      arrivalMs: calmFromMs + index * 700,
      promptTokens: 1 + dice.between(0, cluster.blockTokens),
      outputTokens: 1 + dice.between(0, 3),
      blocks: [],
    }),
  )
  return { seed, cluster, requests: [...stormy, ...calm], faults, calmFromMs }
}

function clusterOf(dice: Dice): CaseCluster {
  const machineCount = dice.between(1, 2)
  const count = dice.between(2, DEVICES_MAX)
  const devices = Array.from({ length: count }, (_, index) => deviceOf(dice, index))
  return {
    blockTokens: dice.pick([16, 16, 8, 32]),
    mergeLayers: dice.pick([1, 2, 4]),
    messageMs: dice.pick([0.5, 1, 3]),
    coalesce: dice.chance(0.5),
    fixedAddresses: dice.chance(0.5),
    leaseTtlMs: dice.pick([250, 600, 2_000, 5_000]),
    waitingMax: dice.pick([1, 3, 16, 64]),
    queuedMax: dice.pick([1, 3, 8, 16]),
    placementDeadlineMs: dice.pick([1_500, 4_000, 8_000]),
    requestDeadlineMs: dice.pick([5_000, 12_000, 20_000]),
    policy: dice.chance(0.6)
      ? {}
      : { order: dice.pick(ORDER_NAMES), pick: dice.pick(PICK_NAMES), decodeAssist: dice.chance(0.5) },
    isAdmissionOn: dice.chance(0.8),
    machines: Array.from({ length: machineCount }, (_, machine) => ({
      id: `m${machine}`,
      hostBlocks: dice.chance(0.6) ? dice.between(4, 60) : 0,
      devices: devices.filter((_, index) => index % machineCount === machine),
    })),
  }
}

function deviceOf(dice: Dice, index: number): CaseDevice {
  // The first two can serve anything together, and each alone.
  const kind = index === 0 ? 'prefers-prefill' : index === 1 ? 'prefers-decode' : dice.pick(KINDS)
  const decodeSlots = dice.between(1, 4)
  const near = dice.between(6, 32)
  return {
    deviceId: `${kind === 'prefers-prefill' ? 'gpu' : 'fpga'}-${index}`,
    kind,
    decodeSlots,
    decodesAtOnce: dice.between(1, decodeSlots),
    chunkTokens: dice.pick([32, 64, 256]),
    tierBlocks: dice.chance(0.4) ? [near, dice.between(4, 40)] : [near],
    tierPolicy: dice.pick(['static', 'reactive', 'balanced']),
    tokenMs: dice.pick([0.2, 0.5, 1]) * (kind === 'prefers-prefill' ? 1 : 3),
    stepMs: dice.pick([3, 8, 20]),
    linkBytesPerMs: dice.pick([150, 600, 3_000, 20_000]),
  }
}

const KINDS: readonly [CaseDevice['kind'], ...CaseDevice['kind'][]] = [
  'prefers-prefill',
  'prefers-prefill',
  'prefers-decode',
  'decodes-only',
]

function requestsOf(dice: Dice, cluster: CaseCluster, stormMs: number): VirtualRequest[] {
  const families = dice.between(1, 3)
  const { blockTokens } = cluster
  const arrivals = Array.from({ length: dice.between(2, 32) }, () => dice.between(0, stormMs)).sort(
    (a, b) => a - b,
  )
  return arrivals.map((arrivalMs, index) => {
    const promptTokens = dice.chance(0.1)
      ? dice.between(1, 60 * blockTokens)
      : dice.between(1, 14 * blockTokens)
    const full = Math.floor(promptTokens / blockTokens)
    // Some are whole blocks that others begin with too, so that nothing of them is left to compute but one token.
    const isWhole = full > 0 && dice.chance(0.25)
    const shared = isWhole ? full : dice.chance(0.75) ? dice.between(0, full) : 0
    const family = dice.between(1, families)
    const blocks = Array.from({ length: full }, (_, page) =>
      page < shared ? family * FAMILY_BLOCKS + page : OWN_BLOCKS + index * FAMILY_BLOCKS + page,
    )
    const outputTokens = dice.chance(0.2) ? dice.between(1, 2) : dice.between(1, dice.chance(0.15) ? 450 : 90)
    return {
      requestId: `r${index}`,
      arrivalMs,
      promptTokens: isWhole ? full * blockTokens : promptTokens,
      outputTokens,
      ...(dice.chance(0.5) ? { maxTokens: outputTokens + dice.between(1, 200) } : {}),
      blocks: dice.chance(0.9) ? blocks : [],
      ...(dice.chance(0.25) ? { leavesAfterMs: dice.between(0, 2_500) } : {}),
      ...(dice.chance(0.5) ? { tenant: dice.pick(['a', 'b']) } : {}),
      ...(dice.chance(0.5) ? { priority: dice.between(-1, 2) } : {}),
      ...(dice.chance(0.2) ? { ttftDeadlineMs: dice.between(300, 6_000) } : {}),
    }
  })
}

/** Some kinds are commoner, since more follows from them. */
const DRAWN: readonly [FaultKind, ...FaultKind[]] = [
  'crash',
  'crash',
  'restart',
  'restart',
  'stall',
  'partition',
  'partition',
  'one-way-partition',
  'slow-link',
  'slow-link',
  'bus-outage',
  'lost-news',
  'doubled-news',
  'late-news',
  'broken-calls',
  'late-calls',
  'repeated-calls',
  'repeated-calls',
  'stale-events',
  'stale-events',
]

function faultsOf(dice: Dice, cluster: CaseCluster, stormMs: number): ClusterFault[] {
  const ids = cluster.machines.flatMap(({ devices }) => devices.map(({ deviceId }) => deviceId))
  const hosts = cluster.machines.flatMap(({ id, hostBlocks }) => (hostBlocks > 0 ? [`host-${id}`] : []))
  const [first = '', ...rest] = ids
  const devices = [first, ...rest] as const
  const anyone = [first, ...rest, ...hosts] as const
  const draw = (): ClusterFault => {
    const kind = dice.pick(DRAWN)
    const atMs = dice.between(0, stormMs)
    const forMs = dice.chance(0.1) ? dice.between(4_000, 12_000) : dice.between(50, 4_000)
    switch (kind) {
      case 'restart':
        return { kind, device: dice.pick(anyone), atMs, forMs: 0 }
      case 'crash':
      case 'stall':
        return { kind, device: dice.pick(anyone), atMs, forMs }
      case 'partition':
      case 'one-way-partition': {
        const a = dice.pick(anyone)
        const others = [...anyone, 'coordinator'].filter((id) => id !== a)
        const b = dice.chance(0.5) ? 'coordinator' : dice.pick(['coordinator', ...others])
        return dice.chance(0.5) ? { kind, a, b, atMs, forMs } : { kind, a: b, b: a, atMs, forMs }
      }
      case 'slow-link':
        return { kind, device: dice.pick(devices), factor: dice.pick([0.02, 0.1, 0.5]), atMs, forMs }
      case 'bus-outage':
        return { kind, atMs, forMs }
      default:
        return {
          kind,
          device: dice.pick(anyone),
          atMs,
          forMs,
          share:
            kind.endsWith('-calls') && kind !== 'repeated-calls'
              ? dice.pick([0.1, 0.4, 1])
              : dice.pick([0.3, 1]),
          delayMs: dice.pick([20, 200, 900]),
          dice: dice.between(1, 1_000_000),
        }
    }
  }
  return Array.from({ length: dice.between(1, 10) }, draw).sort((a, b) => a.atMs - b.atMs)
}
