import { describe, expect, test } from 'vitest'
import type { Decision, PrefixDecision } from '../core/decision.js'
import type { PlannedFetch, UnusedSource } from '../core/prefix-plan.js'
import type { ReuseFigures } from './prefix-calls.js'
import { type PrefixFacts, prefixReport } from './prefix-report.js'

const gpu = { deviceId: 'gpu-0', incarnation: '1' }
const NOTHING: PrefixDecision = {
  blocks: 8,
  localTokens: 0,
  localTier: '',
  fetch: null,
  computeTokens: 128,
  computeMs: 10,
  prefillMs: 10,
  unfetchedMs: 10,
  unused: [],
  heldByDecodeTokens: 0,
}
const FETCH: PlannedFetch = {
  device: { deviceId: 'host-0', incarnation: '1' },
  tokens: 96,
  tier: 'dram',
  fetchMs: 1.5,
  computeMs: 20,
}
const unused = (deviceId: string, tokens: number, why: UnusedSource['why']): UnusedSource => {
  return { deviceId, tokens, tier: 'hbm', why, fetchMs: 30, computeMs: 20, prefillMs: 40 }
}

/** A prompt of 128 tokens, 8 blocks. */
function report(
  prefix: Partial<PrefixDecision>,
  reuse: Partial<ReuseFigures> | null,
  rest: Partial<PrefixFacts> = {},
) {
  const none = {
    localTokens: 0,
    fetchedTokens: 0,
    fetchedBytes: 0,
    modelledBytes: 0,
    fetchMs: 0,
    problem: '',
  }
  return prefixReport({
    promptTokens: 128,
    reusePrefix: true,
    decision: { prefill: gpu, prefix: { ...NOTHING, ...prefix } } as Decision,
    reuse: reuse && { ...none, ...reuse },
    heldByDecodeTokens: 0,
    ...rest,
  })
}

/** `source first+blocks: reason`, to be read. */
function runs(shown: ReturnType<typeof report>): string[] {
  return shown.runs.map(({ source, device, firstBlock, blocks, reason }) => {
    return `${source} on ${device}, ${firstBlock}+${blocks}: ${reason}`
  })
}

describe('the runs of a prompt', () => {
  test('are unknown before the device has told', () => {
    expect(report({}, null)).toMatchObject({ blocks: 8, cachedTokens: 0, fetchMs: null, runs: [] })
  })

  test('say where reused blocks came from, and why the last one was computed', () => {
    const shown = report(
      { localTokens: 32, localTier: 'hbm', fetch: { ...FETCH, tokens: 112 } },
      { localTokens: 32, fetchedTokens: 80, fetchedBytes: 80_000, fetchMs: 1.75 },
    )
    expect(shown).toMatchObject({ cachedTokens: 112, fetchedBytes: 80_000, fetchMs: 1.75 })
    expect(runs(shown)).toEqual([
      'local on gpu-0, 0+2: gpu-0 held them itself.',
      'fetched on host-0, 2+5: They were fetched from host-0: 1.5 ms predicted, where computing them was predicted to take 20 ms.',
      'computed on gpu-0, 7+1: The last block is always computed: its last token gives the first new one.',
    ])
  })

  test('say what did not come from where it was expected', () => {
    const problem = 'host-0 gave its blocks up.'
    expect(runs(report({ fetch: FETCH }, { fetchedTokens: 32, problem }))).toEqual([
      expect.stringMatching(/^fetched on host-0, 0\+2/),
      'computed on gpu-0, 2+4: They were to come from host-0, and did not: host-0 gave its blocks up.',
      expect.stringMatching(/^computed on gpu-0, 6\+1: They are not cached anywhere: no prompt before/),
      expect.stringMatching(/^computed on gpu-0, 7\+1: The last block/),
    ])
    expect(runs(report({ localTokens: 64 }, { localTokens: 16 }))[1]).toBe(
      'computed on gpu-0, 1+3: gpu-0 no longer had them.',
    )
  })

  test('say which device has more, and why it was not asked', () => {
    const prefix = {
      unused: [
        unused('fpga-1', 112, 'lost'),
        unused('host-0', 64, 'slower'),
        unused('fpga-0', 32, 'draining'),
      ],
    }
    expect(runs(report(prefix, {}))).toEqual([
      'computed on gpu-0, 0+2: They are cached on fpga-0, which is draining.',
      'computed on gpu-0, 2+2: They are cached on host-0, but fetching them was predicted to take 30 ms, where computing them was predicted to take 20 ms.',
      'computed on gpu-0, 4+3: They are cached on fpga-1, which was not heard from.',
      expect.stringMatching(/7\+1: The last block/),
    ])
  })

  test('cover every token once, whatever was planned and told', () => {
    for (const promptTokens of [1, 15, 16, 17, 128]) {
      for (const localTokens of [0, 16, 48]) {
        for (const fetchedTokens of [0, 32]) {
          const shown = report(
            { localTokens: 32, fetch: FETCH, unused: [unused('fpga-0', 112, 'slower')] },
            { localTokens, fetchedTokens },
            { promptTokens },
          )
          expect(shown.runs.reduce((sum, { tokens }) => sum + tokens, 0)).toBe(promptTokens)
          expect(shown.runs.reduce((sum, { blocks }) => sum + blocks, 0)).toBe(shown.blocks)
          expect(shown.cachedTokens).toBeLessThanOrEqual(promptTokens)
        }
      }
    }
  })

  test('of a request without reuse have that one reason', () => {
    expect(runs(report({ blocks: 0 }, {}, { reusePrefix: false }))).toEqual([
      'computed on gpu-0, 0+8: Reuse was turned off for this request (cache_prompt is false).',
    ])
  })
})
