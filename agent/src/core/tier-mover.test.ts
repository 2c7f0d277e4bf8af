import { expect, it } from 'vitest'
import { AgentCore } from './agent-core.js'
import type { CoreAction } from './events.js'

const PAGES = 3_000
const PROMPT_TOKENS = PAGES * 16

function only<Type extends CoreAction['type']>(actions: readonly CoreAction[], type: Type) {
  return actions.filter((action): action is Extract<CoreAction, { type: Type }> => action.type === type)
}

/** A core whose one sequence has many pages, most of them in the far tier; and its first step. */
function decoding() {
  const core = new AgentCore({
    ...{ deviceId: 'fpga-0', incarnation: 1n, leaseTtlMs: 5_000, blockBytes: 1_024, tierPolicy: 'reactive' },
    tiers: [
      { name: 'hbm', blocks: 500, bytesPerSecond: 400 },
      { name: 'ddr', blocks: 4_000, bytesPerSecond: 40 },
    ],
    ...{ decodeSlots: 1, waitingMax: 1, contextTokensMax: 2 * PROMPT_TOKENS },
    limits: { rowsMax: 8, chunkTokens: 8, sharedChunkTokens: 8 },
  })
  const request = { requestId: 'r', epoch: 1, hashes: [] }
  const tokens = PROMPT_TOKENS + 256
  const reserved = core.step({ type: 'reserve', ...request, tokens, purpose: 'decode' }, 0)
  const counter = only(reserved, 'granted')[0]?.counter ?? 0n
  core.step(
    {
      ...{ type: 'decode', sequence: 1, lease: { deviceId: 'fpga-0', incarnation: 1n, counter }, ...request },
      ...{ promptTokens: PROMPT_TOKENS, firstIndex: 0, tokensMax: 1_000, kv: 'pulled', fetchTokens: 0 },
      offload: undefined,
    },
    0,
  )
  return { core, first: core.step({ type: 'received', sequence: 1, stopped: false }, 0) }
}

it('plans the moves of many pages in some steps only, each of which takes its time', () => {
  const { core, first } = decoding()
  let blocks = only(first, 'run-step')[0]?.parts[0]?.blocks ?? []
  const moved: boolean[] = []
  for (let step = 0; step < 12; step += 1) {
    // Another part of the pages in each step, so that there is always something to move.
    const reads = Float32Array.from(blocks, (_, page) => (page % 12 === step ? 1 : 0))
    const actions = core.step(
      {
        ...{ type: 'step-finished', cancelled: false, stopped: [], failed: [], filled: [], elapsedUs: 1 },
        reads: [{ sequence: 1, reads, mass: reads }],
      },
      step,
    )
    moved.push(only(actions, 'copy').length > 0)
    blocks = only(actions, 'run-step')[0]?.parts[0]?.blocks ?? []
  }
  // In the first step no page has been idle yet.
  expect(moved).toEqual(Array.from({ length: 12 }, (_, step) => step > 0 && step % 3 === 0))
})
