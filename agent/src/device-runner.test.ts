import type { DriverModel } from '@kvasir/engine/device-driver'
import { systemClock } from '@kvasir/runtime/clock'
import { createLogger } from '@kvasir/runtime/log'
import { describe, expect, it } from 'vitest'
import { AgentCore } from './core/agent-core.js'
import type { CoreAction, CoreEvent } from './core/events.js'
import { DeviceRunner, type RunnerParts } from './device-runner.js'
import type { SequenceOwner } from './sequence-owner.js'
import { GREEDY } from './testing/test-devices.js'

const REST: Omit<RunnerParts, 'core' | 'driver' | 'demote' | 'kvChanged'> = {
  trackPages: false,
  clock: systemClock,
  log: createLogger({ service: 'test', terminal: false }),
  stepMs: 1_000,
  onBroken: () => {},
}

/** A runner whose core answers events as it is told. */
function runnerWith(answers: (event: CoreEvent) => readonly CoreAction[]) {
  const changes: string[] = []
  const runner = new DeviceRunner({
    core: { step: answers } as unknown as AgentCore,
    driver: {} as DriverModel,
    demote: () => changes.push('demote'),
    kvChanged: (stored, removed) => changes.push(`+${stored} -${removed}`),
    ...REST,
  })
  return { runner, changes }
}

function beginPrefill(runner: DeviceRunner, id: number, promptTokens: number, owner: SequenceOwner): void {
  const tokens = Array.from({ length: promptTokens }, (_, index) => index)
  runner.begin(
    {
      ...{ id, tokens, firstIndex: 0, hashes: undefined, owner, stopTokens: new Set<number>() },
      sampling: { ...GREEDY, logprobs: false },
    },
    {
      ...{ type: 'prefill', sequence: id, requestId: `r${id}`, epoch: 1, promptTokens },
      ...{ hashes: [], fetchTokens: 0 },
    },
  )
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
    beginPrefill(runner, 1, 1, owner)
    runner.cancel(1)
    expect(changes).toEqual(['+a -', '+ -a'])
  })
})

describe('the time of a step', () => {
  /** Steps take 1, 2, 3 ms and so on; the first is cancelled where `cancelsFirst`. */
  async function shares(promptTokens: readonly number[], cancelsFirst = false) {
    const us = promptTokens.map(() => 0)
    let steps = 0
    let stepsUs = 0
    const runner = new DeviceRunner({
      core: new AgentCore({
        ...{ deviceId: 'gpu-0', incarnation: 1n, leaseTtlMs: 1_000, blockBytes: 64, tierPolicy: 'static' },
        tiers: [{ name: 'hbm', blocks: 100, bytesPerSecond: 1e9 }],
        ...{ decodeSlots: 1, waitingMax: 8, contextTokensMax: 512 },
        limits: { rowsMax: 128, chunkTokens: 64, sharedChunkTokens: 16 },
      }),
      driver: {
        async step(sequences) {
          steps += 1
          const cancelled = cancelsFirst && steps === 1
          const elapsedUs = steps * 1_000
          if (!cancelled) stepsUs += elapsedUs
          const logits = new Float32Array(4 * sequences.filter(({ wantLogits }) => wantLogits).length)
          return { logits, elapsedUs, cancelled, failed: [], attention: [] }
        },
      } satisfies Partial<DriverModel> as unknown as DriverModel,
      demote: () => {},
      kvChanged: () => {},
      ...REST,
    })
    const computed = promptTokens.map((tokens, at) => {
      return new Promise<void>((resolve) => {
        beginPrefill(runner, at + 1, tokens, {
          chunkComputed(shareUs) {
            us[at] = (us[at] ?? 0) + shareUs
          },
          sampled: () => resolve(),
          ended: () => {},
        })
      })
    })
    await Promise.all(computed)
    return { us, stepsUs }
  }

  it('is shared by the prompts that it computes: two equal ones have half of it each', async () => {
    // The first prompt's step runs when the others come, which then share the next.
    expect((await shares([16, 32, 32])).us).toEqual([1_000, 1_000, 1_000])
  })

  it('is given out whole, over prompts of any length', async () => {
    const { us, stepsUs } = await shares([100, 7, 130, 64, 1])
    expect(us.reduce((sum, one) => sum + one, 0)).toBeCloseTo(stepsUs, 6)
  })

  it('is nobody’s where the step was cancelled, since its rows are computed again', async () => {
    expect((await shares([16], true)).us).toEqual([2_000])
  })
})
