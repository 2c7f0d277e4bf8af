/** The tables of a replay. */
import type { ClusterPlan } from '../cluster/cluster-plan.js'
import type { Cell, StudyTable } from '../study.js'
import type { Goodput } from './replay-goodput.js'
import type { ReplayRun } from './replay-point.js'
import type { Survey } from './replay-survey.js'
import { mixText, type WhatIfAnswer } from './what-if.js'

type Row = Readonly<Record<string, Cell>>

/** `rows`: one a policy, with shares. */
export function policyTable(rows: readonly Row[]): StudyTable {
  return {
    title: 'Policies',
    columns: [
      { key: 'policy', label: 'policy' },
      { key: 'attained', label: 'SLO met', unit: '%' },
      { key: 'goodputPerS', label: 'goodput', unit: 'requests/s' },
      { key: 'requestsFinished', label: 'finished' },
      { key: 'requestsFailed', label: 'failed' },
      { key: 'ttftP50Ms', label: 'TTFT p50', unit: 'ms' },
      { key: 'ttftP90Ms', label: 'TTFT p90', unit: 'ms' },
      { key: 'ttftP99Ms', label: 'TTFT p99', unit: 'ms' },
      { key: 'tpotP50Ms', label: 'TPOT p50', unit: 'ms' },
      { key: 'tpotP90Ms', label: 'TPOT p90', unit: 'ms' },
      { key: 'latencyP50Ms', label: 'whole p50', unit: 'ms' },
      { key: 'latencyP99Ms', label: 'whole p99', unit: 'ms' },
      { key: 'tokensPerS', label: 'output', unit: 'tokens/s' },
      { key: 'hits', label: 'reused', unit: '%' },
      { key: 'joulesPerToken', label: 'energy', unit: 'J/token' },
      { key: 'dollarsPerHour', label: 'cost', unit: '$/h' },
      { key: 'dollarsPerMTokens', label: 'cost', unit: '$/M tokens' },
    ],
    rows: rows.map((row) => ({
      ...row,
      attained: percent(row.attainedShare),
      hits: percent(row.hitShare),
    })),
    note: 'Energy is of the output tokens, idle time included; cost a million tokens counts prompts too.',
  }
}

function percent(share: Cell | undefined): number | null {
  return typeof share === 'number' ? one(share * 100) : null
}

export function goodputTable(rates: readonly Goodput[], survey: Survey, attain: number): StudyTable {
  const comes = survey.requests / Math.max(1, survey.spanMs / 1_000)
  return {
    title: `Largest rate with ${one(attain * 100)} % of the requests within the SLO`,
    columns: [
      { key: 'policy', label: 'policy' },
      { key: 'rate', label: 'rate', unit: 'requests/s' },
      { key: 'speed', label: 'of what comes' },
      { key: 'tried', label: 'replays' },
    ],
    rows: rates.map(({ policy, speed, tried }) => ({
      ...{ policy, tried },
      rate: two(speed * comes),
      speed: two(speed),
    })),
  }
}

export function whatIfTable({ tries, best, attain }: WhatIfAnswer): StudyTable {
  return {
    title: 'Clusters that were tried',
    columns: [
      { key: 'cluster', label: 'cluster' },
      { key: 'devices', label: 'devices' },
      { key: 'dollars', label: 'price', unit: '$' },
      { key: 'attained', label: 'SLO met', unit: '%' },
      { key: 'verdict', label: '' },
    ],
    rows: tries.map(({ candidate, meets, attained, isStopped }) => ({
      cluster: mixText(candidate.counts),
      devices: candidate.devices,
      dollars: candidate.dollars,
      attained: isStopped ? `≤ ${one(attained * 100)}` : one(attained * 100),
      verdict: candidate === best ? 'the smallest' : meets ? 'meets' : 'misses',
    })),
    note: `In the order in which they were tried; a cluster meets the SLO where ${one(attain * 100)} % of the requests do. One that cannot any more is stopped.`,
  }
}

export function deviceTable(run: ReplayRun, policy: string): StudyTable {
  return {
    title: `Devices, ${policy}`,
    columns: [
      { key: 'device', label: 'device' },
      { key: 'busy', label: 'busy', unit: '%' },
      { key: 'prefill', label: 'in steps with prefill', unit: '%' },
      { key: 'decode', label: 'in steps of decoding', unit: '%' },
      { key: 'prefillTokens', label: 'prompt tokens computed' },
      { key: 'decodeTokens', label: 'tokens decoded' },
      { key: 'sent', label: 'sent', unit: 'GB' },
      { key: 'received', label: 'received', unit: 'GB' },
      { key: 'energy', label: 'energy', unit: 'kJ' },
    ],
    rows: run.devices
      .filter(({ deviceId }) => deviceId in run.busy)
      .map((used) => ({
        device: used.deviceId,
        busy: one((100 * used.busyMs) / run.virtualMs),
        prefill: one((100 * used.prefillMs) / run.virtualMs),
        decode: one((100 * used.decodeMs) / run.virtualMs),
        prefillTokens: used.prefillTokens,
        decodeTokens: used.decodeTokens,
        sent: one(used.sentBytes / 1e9),
        received: one(used.receivedBytes / 1e9),
        energy: one(used.energyJ / 1e3),
      })),
  }
}

/** Hits by kind of device and memory. */
export function tierTable(run: ReplayRun, plan: ClusterPlan, policy: string): StudyTable {
  const names = new Map(
    plan.machines.flatMap(({ devices }) =>
      devices.map(({ deviceId, model }) => [deviceId, model.device.name] as const),
    ),
  )
  const sums = new Map<
    string,
    { lookups: number; hits: number; readBytes: number; inBytes: number; outBytes: number }
  >()
  for (const { deviceId, tiers } of run.devices) {
    for (const tier of tiers) {
      const at = `${names.get(deviceId) ?? 'host'}: ${tier.name}`
      const sum = sums.get(at) ?? { lookups: 0, hits: 0, readBytes: 0, inBytes: 0, outBytes: 0 }
      sum.lookups += tier.lookups
      sum.hits += tier.hits
      sum.readBytes += tier.readBytes
      sum.inBytes += tier.inBytes
      sum.outBytes += tier.outBytes
      sums.set(at, sum)
    }
  }
  return {
    title: `Memories, ${policy}`,
    columns: [
      { key: 'tier', label: 'memory' },
      { key: 'lookups', label: 'blocks looked for' },
      { key: 'hits', label: 'found' },
      { key: 'share', label: 'found', unit: '%' },
      { key: 'in', label: 'moved in', unit: 'GB' },
      { key: 'out', label: 'moved out', unit: 'GB' },
    ],
    rows: [...sums].map(([tier, sum]) => ({
      tier,
      lookups: sum.lookups,
      hits: sum.hits,
      share: one((100 * sum.hits) / sum.lookups),
      in: one(sum.inBytes / 1e9),
      out: one(sum.outBytes / 1e9),
    })),
    note: 'A host is asked only for blocks that the directory says it has.',
  }
}

function one(value: number): number | null {
  return Number.isFinite(value) ? Math.round(value * 10) / 10 : null
}

function two(value: number): number | null {
  return Number.isFinite(value) ? Math.round(value * 100) / 100 : null
}
