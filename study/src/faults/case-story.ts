/** A seed told to a person: what it broke, the smallest case that breaks it too, and what happened there, line by line. */
import { caseOf } from './case-generator.js'
import { type FaultCase, faultText } from './fault-case.js'
import type { HistoryLine } from './history.js'
import { type Plant, runCase } from './run-case.js'
import { shrink } from './shrink.js'

export interface Story {
  /** One sentence. */
  readonly verdict: string
  readonly isViolated: boolean
  /** What is there and what is left of it, a sentence each. */
  readonly scene: readonly string[]
  readonly history: readonly HistoryLine[]
}

/** Of seconds rather than minutes. */
const RUNS_MAX = 400
const LINES_MAX = 40

export function storyOf(seed: number, plant: Plant | undefined): Story {
  const whole = caseOf(seed)
  const options = plant === undefined ? {} : { plant }
  const { violation, history } = runCase(whole, { ...options, isRecorded: true })
  if (violation === null) {
    const verdict = `Seed ${seed}: every rule held.`
    return {
      verdict,
      isViolated: false,
      scene: sceneOf(whole),
      history: plain(history.all().slice(-LINES_MAX)),
    }
  }
  const small = shrink(whole, violation, (candidate) => runCase(candidate, options).violation, RUNS_MAX)
  const again = runCase(small.faultCase, { ...options, isRecorded: true })
  const found = again.violation ?? small.violation
  const left = `${small.faultCase.faults.length} of ${whole.faults.length} faults, ${small.faultCase.requests.length} of ${whole.requests.length} requests, ${deviceCount(small.faultCase)} of ${deviceCount(whole)} devices`
  return {
    verdict: `Seed ${seed} breaks ${found.rule}: ${found.message}`,
    isViolated: true,
    scene: [`It takes ${left} (found in ${small.runs} runs).`, ...sceneOf(small.faultCase)],
    history: plain(again.history.about(found.about, LINES_MAX)),
  }
}

function plain(lines: readonly HistoryLine[]): HistoryLine[] {
  return lines.map(({ atMs, who, what }) => ({ atMs, who, what }))
}

function sceneOf({ cluster, requests, faults }: FaultCase): string[] {
  const devices = cluster.machines.flatMap(({ id, devices: own }) =>
    own.map(({ deviceId, decodeSlots, tierBlocks }) => {
      return `${deviceId} in ${id} (${decodeSlots} slots, ${tierBlocks.join('+')} blocks)`
    }),
  )
  return [
    `Devices: ${devices.join(', ')}; blocks of ${cluster.blockTokens} tokens, leases of ${cluster.leaseTtlMs} ms.`,
    `Requests: ${requests.map(({ requestId, arrivalMs }) => `${requestId} at ${arrivalMs} ms`).join(', ') || 'none'}.`,
    `Faults: ${faults.map((fault) => `${faultText(fault)} at ${fault.atMs} ms`).join('; ') || 'none'}.`,
  ]
}

function deviceCount({ cluster }: FaultCase): number {
  return cluster.machines.reduce((sum, { devices }) => sum + devices.length, 0)
}
