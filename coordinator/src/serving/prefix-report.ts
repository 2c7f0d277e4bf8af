/**
 * What became of a prompt's blocks, for a person: runs of blocks with one history, each with its reason.
 * Rendered only when somebody asks.
 */
import type { Decision } from '../core/decision.js'
import { BLOCK_TOKENS } from '../core/kv-blocks.js'
import type { PlannedFetch, UnusedSource } from '../core/prefix-plan.js'
import type { BlockRun, PrefixReport } from '../generation.js'
import { roundMs } from '../round-ms.js'
import type { ReuseFigures } from './prefix-calls.js'

export interface PrefixFacts {
  readonly promptTokens: number
  readonly reusePrefix: boolean
  /** Of the last placement. */
  readonly decision: Decision
  /** Null before the device that prefills has told. */
  readonly reuse: ReuseFigures | null
  readonly heldByDecodeTokens: number
}

export function prefixReport(facts: PrefixFacts): PrefixReport {
  const { promptTokens, reuse } = facts
  return {
    blocks: Math.ceil(promptTokens / BLOCK_TOKENS),
    cachedTokens: cachedTokens(promptTokens, reuse),
    fetchedBytes: reuse?.fetchedBytes ?? 0,
    fetchMs: reuse && reuse.fetchedTokens > 0 ? roundMs(reuse.fetchMs) : null,
    runs: reuse ? blockRuns(facts, reuse) : [],
    heldByDecodeTokens: Math.min(promptTokens, facts.heldByDecodeTokens),
  }
}

/** Prompt tokens that the prefilling device did not compute. */
export function cachedTokens(promptTokens: number, reuse: ReuseFigures | null): number {
  return reuse ? Math.min(promptTokens, reuse.localTokens + reuse.fetchedTokens) : 0
}

function blockRuns(facts: PrefixFacts, reuse: ReuseFigures): BlockRun[] {
  const { promptTokens, decision } = facts
  const { prefix, prefill } = decision
  const runs: BlockRun[] = []
  let at = 0
  const add = (untilTokens: number, run: Pick<BlockRun, 'source' | 'device' | 'tier' | 'reason'>): void => {
    const end = Math.min(untilTokens, promptTokens)
    if (end <= at) return
    const firstBlock = at / BLOCK_TOKENS
    runs.push({ firstBlock, blocks: Math.ceil(end / BLOCK_TOKENS) - firstBlock, tokens: end - at, ...run })
    at = end
  }
  const computed = (untilTokens: number, reason: string): void =>
    add(untilTokens, { source: 'computed', device: prefill.deviceId, tier: null, reason })

  add(reuse.localTokens, {
    source: 'local',
    device: prefill.deviceId,
    tier: prefix.localTier || null,
    reason: `${prefill.deviceId} held them itself.`,
  })
  if (prefix.fetch) {
    add(reuse.localTokens + reuse.fetchedTokens, {
      source: 'fetched',
      device: prefix.fetch.device.deviceId,
      tier: prefix.fetch.tier || null,
      reason: fetchReason(prefix.fetch),
    })
    computed(prefix.fetch.tokens, failedFetchReason(prefix.fetch, reuse))
  }
  if (!facts.reusePrefix) {
    computed(promptTokens, 'Reuse was turned off for this request (cache_prompt is false).')
    return runs
  }
  // What was expected here and was not is named before what is cached elsewhere.
  computed(prefix.localTokens, `${prefill.deviceId} no longer had them.`)
  const reusable = Math.floor((promptTokens - 1) / BLOCK_TOKENS) * BLOCK_TOKENS
  for (const source of prefix.unused.toSorted((a, b) => a.tokens - b.tokens)) {
    computed(Math.min(source.tokens, reusable), unusedReason(source))
  }
  computed(reusable, newReason(at))
  computed(promptTokens, tailReason(promptTokens))
  return runs
}

function fetchReason({ fetchMs, computeMs, device }: PlannedFetch): string {
  const times = `${ms(fetchMs)} ms predicted, where computing them was predicted to take ${ms(computeMs)} ms`
  return `They were fetched from ${device.deviceId}: ${times}.`
}

function failedFetchReason({ device }: PlannedFetch, { problem }: ReuseFigures): string {
  const why = problem === '' ? 'it no longer had them.' : problem
  return `They were to come from ${device.deviceId}, and did not: ${why}`
}

function unusedReason({ deviceId, why, fetchMs, computeMs }: UnusedSource): string {
  switch (why) {
    case 'second-best':
      return `They are cached on ${deviceId}, but fetching all from there was predicted to take ${ms(fetchMs)} ms: the way taken was faster.`
    case 'slower': {
      const times = `${ms(fetchMs)} ms, where computing them was predicted to take ${ms(computeMs)} ms`
      return `They are cached on ${deviceId}, but fetching them was predicted to take ${times}.`
    }
    case 'lost':
      return `They are cached on ${deviceId}, which was not heard from.`
    case 'draining':
      return `They are cached on ${deviceId}, which is draining.`
    case 'failed-before':
      return `They are cached on ${deviceId}, which failed this request a moment before.`
  }
}

function newReason(at: number): string {
  return at === 0
    ? 'They are not cached anywhere: nothing began like this prompt, as far as this tenant may know, or it was evicted.'
    : 'They are not cached anywhere: no prompt before went on like this one, or it was evicted.'
}

function tailReason(promptTokens: number): string {
  return promptTokens % BLOCK_TOKENS === 0
    ? 'The last block is always computed: its last token gives the first new one.'
    : 'The last tokens are always computed: only whole blocks are kept.'
}

/** As fine as a person needs it. */
function ms(value: number): string {
  return value < 10 ? value.toFixed(1) : value.toFixed(0)
}
