import { describe, expect, test } from 'vitest'
import type { Decision, PrefixDecision } from '../core/decision.js'
import { prefixStages } from './stage-reports.js'

const PREFIX: PrefixDecision = {
  blocks: 8,
  localTokens: 0,
  localTier: '',
  fetch: null,
  computeTokens: 128,
  computeMs: 20,
  prefillMs: 20,
  unfetchedMs: 20,
  unused: [],
  heldByDecodeTokens: 0,
}
const HOST = { deviceId: 'host-0', incarnation: '1' }
const FETCHED = {
  localTokens: 32,
  fetchedTokens: 64,
  fetchedBytes: 65_536,
  modelledBytes: 65_536,
  fetchMs: 1.25,
  problem: '',
}

const stages = (prefix: Partial<PrefixDecision>, reuse: typeof FETCHED | null, computeUs: number | null) =>
  prefixStages(
    {
      prefill: { deviceId: 'gpu-0', incarnation: '1' },
      prefix: { ...PREFIX, ...prefix },
    } as Decision,
    reuse,
    computeUs,
  )

describe('the stages of prefix reuse', () => {
  test('are hashes, lookup, fetch and prefill of the rest, with the times of computing it all beside them', () => {
    const fetch = { device: HOST, tokens: 96, tier: 'dram', fetchMs: 2, computeMs: 15.0042 }
    // 100 ms of other prompts are ahead, beside which the fetch takes no time.
    const times = { computeMs: 5, prefillMs: 105, unfetchedMs: 120 }
    const all = stages({ fetch, localTokens: 32, computeTokens: 32, ...times }, FETCHED, 4_500)
    expect(all.map(({ stage, what, devices }) => [stage, what, ...devices])).toEqual([
      ['prepare', 'hashes of 8 blocks', 'coordinator'],
      ['relevancy', 'directory lookup', 'coordinator'],
      ['retrieval', 'fetch of 64 tokens', 'host-0'],
      ['apply', 'prefill of 32 tokens', 'gpu-0'],
    ])
    expect(all[2]).toMatchObject({
      transferMs: 2,
      transferBytes: 65_536,
      measuredMs: 1.25,
      alternative: { devices: ['gpu-0'], pipelineMs: 120 },
      reason: 'Fetching is predicted to take 2 ms and computing 15 ms.',
    })
    expect(all[3]).toMatchObject({ predictedMs: 5, measuredMs: 4.5 })
  })

  test('say what fetching would have taken where computing was faster', () => {
    const slower = {
      deviceId: 'gpu-1',
      tokens: 96,
      tier: 'hbm',
      why: 'slower',
      fetchMs: 40,
      computeMs: 15,
      prefillMs: 45,
    } as const
    expect(stages({ unused: [slower] }, null, null)[2]).toMatchObject({
      what: 'nothing fetched',
      devices: ['gpu-0'],
      measuredMs: null,
      alternative: { devices: ['gpu-1'], pipelineMs: 45 },
      reason: 'Fetching from gpu-1 is predicted to take longer than computing.',
    })
  })

  test('say whether the device holds it, or nobody does', () => {
    expect(stages({ localTokens: 96 }, null, null)[2]?.reason).toBe('gpu-0 holds what is cached itself.')
    expect(stages({}, null, null)[2]?.reason).toBe('Nothing of the prompt is known to be cached.')
    const lost = { deviceId: 'gpu-1', tokens: 96, tier: 'hbm', why: 'lost' } as const
    const unused = [{ ...lost, fetchMs: 0, computeMs: 0, prefillMs: 0 }]
    expect(stages({ unused }, null, null)[2]?.reason).toBe(
      'More of it is cached on gpu-1, which cannot be asked now.',
    )
  })

  test('are none where nothing may be reused', () => {
    expect(stages({ blocks: 0 }, null, null)).toEqual([])
  })
})
