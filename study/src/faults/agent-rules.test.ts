/** The checker itself: what it says of answers that a sound core never gives. */
import type { CoreOptions } from '@kvasir/agent/core/core-options'
import type { CoreAction, CoreLoad } from '@kvasir/agent/core/events'
import { describe, expect, test } from 'vitest'
import { AgentRules } from './agent-rules.js'
import { RequestLedger } from './request-ledger.js'

const OPTIONS: CoreOptions = {
  deviceId: 'gpu-0',
  incarnation: 1n,
  leaseTtlMs: 1_000,
  tiers: [{ name: 'hbm', blocks: 8, bytesPerSecond: 1e9 }],
  blockBytes: 1_024,
  blockTokens: 16,
  tierPolicy: 'static',
  decodeSlots: 1,
  waitingMax: 1,
  contextTokensMax: 1_024,
  limits: { rowsMax: 512, chunkTokens: 256, sharedChunkTokens: 32 },
}

const NOTHING: CoreLoad = {
  ...{ decodeSlotsUsed: 0, prefillTokensWaiting: 0, usedBlocks: 0, leases: 0, sequences: 0 },
  draining: false,
  tiers: [],
}

/** A core of which only the answers count, and the blocks of its leases. */
function rulesWith(blocks: Record<string, number[]>): AgentRules {
  const requests = ['a', 'b'].map((requestId) => {
    return { requestId, arrivalMs: 0, promptTokens: 32, outputTokens: 4, blocks: [1, 2] }
  })
  const core = {
    step: () => [],
    blocks: (counter: bigint) => blocks[String(counter)] ?? [],
    load: () => NOTHING,
    storedHashes: () => [],
  }
  return new AgentRules(OPTIONS, core, new RequestLedger(requests))
}

function prefill(
  rules: AgentRules,
  sequence: number,
  requestId: string,
  actions: readonly CoreAction[],
): void {
  const event = { type: 'prefill', sequence, requestId, epoch: 1, promptTokens: 32, fetchTokens: 0 } as const
  rules.on({ ...event, hashes: ['1', '2'] }, actions, sequence)
}

function admitted(sequence: number, counter: bigint, blocks: number[], cachedTokens = 0): CoreAction {
  return { type: 'admitted', sequence, counter, blocks, tokensAhead: 0, cachedTokens }
}

function runs(sequence: number, blocks: number[]): CoreAction {
  const rows = { start: 0, count: 32, firstPage: 0, wantLogits: true }
  return { type: 'run-step', parts: [{ sequence, role: 'prefill', blocks, ...rows }], repeatable: 1 }
}

describe('a device', () => {
  test('that gives a block to two requests breaks I1', () => {
    const rules = rulesWith({ 1: [0, 1], 2: [1, 2] })
    prefill(rules, 1, 'a', [admitted(1, 1n, [0, 1]), runs(1, [0, 1])])
    expect(() => prefill(rules, 2, 'b', [admitted(2, 2n, [1, 2])])).toThrow(/grants block 1 to b and to a/)
  })

  test('that grants blocks it has not breaks I1', () => {
    const rules = rulesWith({ 1: [7, 8] })
    expect(() => prefill(rules, 1, 'a', [admitted(1, 1n, [7, 8])])).toThrow(
      /block 8, which none of its memories has/,
    )
  })

  test('that evicts a block in use breaks I1', () => {
    const rules = rulesWith({ 1: [0, 1] })
    prefill(rules, 1, 'a', [admitted(1, 1n, [0, 1]), runs(1, [0, 1])])
    const demote: CoreAction = { type: 'demote', blocks: [{ hash: '1', block: 0, tier: 'hbm' }] }
    expect(() => rules.on({ type: 'tick' }, [demote], 2)).toThrow(/evicts block 0 \(1\), which is in use/)
  })

  test('that moves pages over others, or away from a transfer, breaks I1', () => {
    const rules = rulesWith({ 1: [0, 1] })
    prefill(rules, 1, 'a', [admitted(1, 1n, [0, 1]), runs(1, [0, 1])])
    const copy = (from: number, to: number): CoreAction => ({ type: 'copy', from: [from], to: [to] })
    expect(() => rules.on({ type: 'tick' }, [copy(1, 0)], 2)).toThrow(/moves block 1 over block 0/)
    rules.on({ type: 'pin', counter: 1n }, [], 2)
    expect(() => rules.on({ type: 'tick' }, [copy(1, 5)], 3)).toThrow(/moves block 1 away from a transfer/)
  })

  test('that takes for cached what no block contains breaks I6', () => {
    const rules = rulesWith({ 1: [0, 1] })
    expect(() => prefill(rules, 1, 'a', [admitted(1, 1n, [0, 1], 16)])).toThrow(
      /uses block 0 as page 0 of a \(1\), but it holds nothing/,
    )
  })

  test('that starts a step while one runs, or is idle with a prompt to compute, is told so', () => {
    const rules = rulesWith({ 1: [0, 1] })
    expect(() => prefill(rules, 1, 'a', [admitted(1, 1n, [0, 1])])).toThrow(
      /is idle though it could prefill a/,
    )
    const other = rulesWith({ 1: [0, 1] })
    prefill(other, 1, 'a', [admitted(1, 1n, [0, 1]), runs(1, [0, 1])])
    expect(() => other.on({ type: 'tick' }, [runs(1, [0, 1])], 2)).toThrow(/runs two steps at once/)
  })

  test('that keeps a lease nobody uses beyond its time breaks I4', () => {
    const rules = rulesWith({ 1: [0, 1] })
    const reserve = {
      type: 'reserve',
      requestId: 'a',
      epoch: 1,
      tokens: 32,
      hashes: [],
      purpose: 'decode',
    } as const
    rules.on(reserve, [{ type: 'granted', counter: 1n, tokens: 32, cachedTokens: 0 }], 0)
    rules.on({ type: 'pin', counter: 9n }, [], 999)
    expect(() => rules.on({ type: 'unpin', counter: 9n }, [], 1_000)).toThrow(
      /keeps lease 1 of a after its time to live/,
    )
  })

  test('that grants more decode slots than it has, or lets too many prompts wait, breaks I2', () => {
    const rules = rulesWith({ 1: [0], 2: [1] })
    const granted = (counter: bigint): CoreAction => ({
      type: 'granted',
      counter,
      tokens: 16,
      cachedTokens: 0,
    })
    const reserve = (requestId: string) =>
      ({ type: 'reserve', requestId, epoch: 1, tokens: 16, hashes: [], purpose: 'decode' }) as const
    rules.on(reserve('a'), [granted(1n)], 0)
    expect(() => rules.on(reserve('b'), [granted(2n)], 0)).toThrow(/grants 2 decode slots/)
    const other = rulesWith({})
    prefill(other, 1, 'a', [])
    expect(() => prefill(other, 2, 'b', [])).toThrow(/lets 2 prompts wait/)
  })

  test('that counts what is not there is told so', () => {
    const rules = rulesWith({ 1: [0, 1] })
    prefill(rules, 1, 'a', [admitted(1, 1n, [0, 1]), runs(1, [0, 1])])
    expect(() => rules.on({ type: 'tick' }, [], 2)).toThrow(/counts 0 leases, and there are 1/)
  })
})
