import type { DriverModel } from '@kvasir/engine/device-driver'
import { systemClock } from '@kvasir/runtime/clock'
import { createLogger } from '@kvasir/runtime/log'
import { describe, expect, it } from 'vitest'
import type { AgentCore } from './core/agent-core.js'
import type { CoreAction, CoreEvent } from './core/events.js'
import { DeviceRunner } from './device-runner.js'
import { GREEDY } from './testing/test-devices.js'

/** A runner whose core answers events as it is told. */
function runnerWith(answers: (event: CoreEvent) => readonly CoreAction[]) {
  const changes: string[] = []
  const runner = new DeviceRunner({
    core: { step: answers } as unknown as AgentCore,
    driver: {} as DriverModel,
    demote: () => changes.push('demote'),
    kvChanged: (stored, removed) => changes.push(`+${stored} -${removed}`),
    trackPages: false,
    clock: systemClock,
    log: createLogger({ service: 'test', terminal: false }),
    stepMs: 1_000,
    onBroken: () => {},
  })
  return { runner, changes }
}

describe('what the core says of its blocks', () => {
  it('is passed on in its order, also where an owner who is told brings about the next event', () => {
    const { runner, changes } = runnerWith(({ type }) => {
      if (type === 'prefill') return []
      if (type === 'tick') return [{ type: 'kv-changed', stored: [], removed: ['a'] }]
      return [
        { type: 'sequence-ended', sequence: 1, reason: 'cancelled', reads: [] },
        { type: 'kv-changed', stored: ['a'], removed: [] },
      ]
    })
    const owner = { ended: () => void runner.apply({ type: 'tick' }) }
    runner.begin(
      {
        ...{ id: 1, tokens: [1], firstIndex: 0, hashes: undefined, owner, stopTokens: new Set<number>() },
        sampling: { ...GREEDY, logprobs: false },
      },
      {
        ...{ type: 'prefill', sequence: 1, requestId: 'r', epoch: 1, promptTokens: 1 },
        ...{ hashes: [], fetchTokens: 0 },
      },
    )
    runner.cancel(1)
    expect(changes).toEqual(['+a -', '+ -a'])
  })
})
