/**
 * The best way for a device to have the beginning of a prompt: what it holds itself, the rest of what is
 * cached from one other device where fetching is predicted to be faster than computing, and the rest
 * computed.
 *
 * P1. At least one token is computed on the device that prefills: its logits give the first new token.
 *     A device that only receives KV may hold all blocks of the prompt.
 * P2. Blocks are taken from a device that is ready and whose variant is the receiver's.
 */

import { hashRange } from './block-hashes.js'
import type { ClusterView, DeviceView } from './cluster-view.js'
import type { CostModel } from './cost-model.js'
import { CONTENDED, type ModelTable, ROW_NUMBERS, TOKENS_A_BLOCK } from './device-table.js'
import type { ProfileName } from './facts.js'
import { BLOCK_TOKENS, blockTokensOf } from './kv-blocks.js'
import type { KvDirectory } from './kv-directory.js'
import type { LoadedModel } from './loaded-model.js'
import type { PrefixMatch } from './prefix-match.js'
import type { PlannedFetch, PrefixPlan, Prompt, UnusedSource } from './prefix-plan.js'
import type { RowList } from './row-list.js'
import { prefillMsAt } from './row-times.js'

/** Sources weighed for one device, the longest runs first. */
const SOURCES_MAX = 8
/** Sources that were not used and are remembered. */
const UNUSED_KEPT = 4

interface Source {
  /** Why it is not asked; `slower` where it may be, until it is weighed. */
  readonly why: UnusedSource['why']
  readonly from: DeviceView | undefined
}

/** A device and the blocks up to which it could give the prompt's beginning. */
interface Holder {
  readonly deviceId: string
  readonly blocks: number
}

export class PrefixChoice {
  readonly #prompt: Prompt
  readonly #view: ClusterView
  readonly #costs: CostModel
  readonly #directory: KvDirectory
  readonly #nowMs: number
  /** Of devices that were not measured yet. */
  readonly #sharedEfficiency: number
  readonly #matches = new Map<string, PrefixMatch>()
  /** Who holds what follows after so many blocks, by their number and the variant. */
  readonly #followers = new Map<string, readonly Holder[]>()
  readonly #known = new Map<string, Source>()
  /** Of the table in which it is written what devices hold. */
  #table: ModelTable | undefined
  #stamp = 0
  #heldCount = 0

  /** Of the model in the profile that is tried. */
  constructor(
    prompt: Prompt,
    profile: ProfileName,
    view: ClusterView,
    costs: CostModel,
    directory: KvDirectory,
    nowMs: number,
  ) {
    this.#prompt = prompt
    this.#sharedEfficiency = costs.sharedEfficiency({ digest: prompt.modelDigest, profile }, 'prefill')
    this.#view = view
    this.#costs = costs
    this.#directory = directory
    this.#nowMs = nowMs
  }

  /** Tokens that need not be sent to a device which another one prefills for. */
  heldTokens({ table, device, facts }: LoadedModel): number {
    const stamp = this.#stampOf(table)
    if (table.heldStamps[device.row] !== stamp) return 0
    return (table.heldBlocks[device.row] ?? 0) * blockTokensOf(facts)
  }

  /** Tokens that a prefilling device need not compute since it holds them. */
  localTokens(model: LoadedModel): number {
    return Math.min(this.heldTokens(model), this.#reusableTokens(blockTokensOf(model.facts)))
  }

  /** With nothing fetched, milliseconds: the quick look by which the devices to plan for are chosen. */
  localMs(model: LoadedModel): number {
    return this.#prefillMs(model, this.localTokens(model))
  }

  /** How many of `heldRows` of the table are those of devices that have the model and hold the prompt's beginning. */
  heldCount(table: ModelTable): number {
    this.#stampOf(table)
    return this.#heldCount
  }

  /** Fills in `localMs` of the models in these rows. */
  fillLocalMs(table: ModelTable, { rows, ms, length }: RowList): void {
    const stamp = this.#stampOf(table)
    const { flags, heldStamps, heldBlocks, numbers } = table
    const { prefillTokens } = this.#prompt
    const sharedEfficiency = this.#sharedEfficiency
    for (let at = 0; at < length; at += 1) {
      const row = rows[at] ?? 0
      let haveTokens = 0
      if (heldStamps[row] === stamp) {
        const blockTokens = numbers[row * ROW_NUMBERS + TOKENS_A_BLOCK] ?? BLOCK_TOKENS
        haveTokens = Math.min((heldBlocks[row] ?? 0) * blockTokens, this.#reusableTokens(blockTokens))
      }
      const isContended = ((flags[row] ?? 0) & CONTENDED) !== 0
      ms[at] = isContended
        ? this.#prefillMsAt(table, row, haveTokens)
        : prefillMsAt(table, row, prefillTokens - haveTokens, haveTokens, sharedEfficiency)
    }
  }

  /** PrefixPlan.prefillMs of `plan`, for the devices of which one is chosen. */
  prefillMs(model: LoadedModel): number {
    const { deviceId } = model.device.facts
    const localTokens = this.localTokens(model)
    const aheadMs = this.#aheadMs(model)
    const blockTokens = blockTokensOf(model.facts)
    const reusableTokens = this.#reusableTokens(blockTokens)
    let bestMs = this.#prefillMs(model, localTokens)
    let restTokens = localTokens
    let restMs = bestMs
    for (const holder of this.#holders(model, localTokens)) {
      const tokens = Math.min(holder.blocks * blockTokens, reusableTokens)
      if (holder.deviceId === deviceId || tokens <= localTokens) continue
      if (tokens !== restTokens) restMs = this.#prefillMs(model, tokens)
      restTokens = tokens
      if (restMs >= bestMs) continue
      const { why, from } = this.#source(holder.deviceId)
      if (why !== 'slower' || !from) continue
      const fetchMs = this.#fetchMs(from, model, tokens - localTokens)
      bestMs = Math.min(bestMs, restMs + Math.max(0, fetchMs - aheadMs))
    }
    return bestMs
  }

  plan(model: LoadedModel): PrefixPlan {
    const { device, facts } = model
    const { deviceId } = device.facts
    const localTokens = this.localTokens(model)
    const localMs = this.#prefillMs(model, localTokens)
    const aheadMs = this.#aheadMs(model)
    const blockTokens = blockTokensOf(model.facts)
    const reusableTokens = this.#reusableTokens(blockTokens)
    let best: { fetch: PlannedFetch; totalMs: number } | undefined
    const seen: UnusedSource[] = []
    let restTokens = localTokens
    let tokensMs = localMs
    for (const holder of this.#holders(model, localTokens)) {
      const tokens = Math.min(holder.blocks * blockTokens, reusableTokens)
      if (holder.deviceId === deviceId || tokens <= localTokens) continue
      if (tokens !== restTokens) tokensMs = this.#prefillMs(model, tokens)
      restTokens = tokens
      // One more is looked at than is told, since one of them may be the chosen one; the others may only be better.
      const isSeen = seen.length <= UNUSED_KEPT
      if (!isSeen && tokensMs >= (best?.totalMs ?? localMs)) continue
      const source = this.#source(holder.deviceId)
      const { from } = source
      const isAsked = source.why === 'slower' && from !== undefined
      const tier = this.#tier(holder.deviceId)
      const restMs = isAsked ? tokensMs : 0
      const fetchMs = isAsked ? this.#fetchMs(from, model, tokens - localTokens) : 0
      const totalMs = isAsked ? restMs + Math.max(0, fetchMs - aheadMs) : 0
      const computeMs = isAsked ? localMs - restMs : 0
      if (isAsked && totalMs < (best?.totalMs ?? localMs)) {
        best = { fetch: { device: from.ref, tokens, tier, fetchMs, computeMs }, totalMs }
      }
      if (!isSeen) continue
      const why = isAsked && totalMs < localMs ? 'second-best' : source.why
      seen.push({ deviceId: holder.deviceId, tokens, tier, why, fetchMs, computeMs, prefillMs: totalMs })
    }
    const fetch = best?.fetch ?? null
    const haveTokens = fetch?.tokens ?? localTokens
    const computeTokens = this.#prompt.prefillTokens - haveTokens
    return {
      localTokens,
      localTier: localTokens > 0 ? this.#tier(deviceId) : '',
      fetch,
      computeTokens,
      computeMs: this.#costs.prefillMs(device.facts, facts, computeTokens, haveTokens),
      prefillMs: best?.totalMs ?? localMs,
      unfetchedMs: localMs,
      unused: seen.filter(({ deviceId }) => deviceId !== fetch?.device.deviceId).slice(0, UNUSED_KEPT),
    }
  }

  /**
   * Devices with more of the prompt than is here, of which some are weighed: those that hold the blocks which follow. They
   * need not hold the first ones: what leaves a cache, and goes to the host's memory, are the last blocks of a run.
   */
  #holders({ facts }: LoadedModel, localTokens: number): readonly Holder[] {
    const localBlocks = localTokens / blockTokensOf(facts)
    const key = `${localBlocks} ${facts.variant}`
    const known = this.#followers.get(key)
    if (known) return known
    const { blockHashes } = this.#prompt
    const match =
      localBlocks === 0
        ? this.#match(facts.variant)
        : this.#directory.match(hashRange(blockHashes, localBlocks), facts.variant)
    const holders = match.longest(0, SOURCES_MAX + 1).map(({ deviceId, blocks }) => {
      return { deviceId, blocks: localBlocks + blocks }
    })
    this.#followers.set(key, holders)
    return holders
  }

  /** Until the prompts that wait are computed. */
  #aheadMs(model: LoadedModel): number {
    const { device, facts, prefillTokensAhead } = model
    const { prefillTokens } = this.#prompt
    const ownMs =
      prefillTokensAhead > 0 ? this.#costs.aheadMs(device.facts, facts, prefillTokensAhead, prefillTokens) : 0
    return ownMs + this.#othersMs(model)
  }

  #fetchMs(from: DeviceView, { device, facts }: LoadedModel, tokens: number): number {
    return this.#costs.fetchMs(from.facts, device.facts, tokens * facts.kvBytesPerToken)
  }

  /** The same for whichever device asks. */
  #source(deviceId: string): Source {
    const known = this.#known.get(deviceId)
    if (known) return known
    const from = this.#view.device(deviceId)
    const source = { why: this.#whyNot(deviceId) ?? 'slower', from } as const
    this.#known.set(deviceId, source)
    return source
  }

  #whyNot(deviceId: string): UnusedSource['why'] | undefined {
    const state = this.#view.state(deviceId, this.#nowMs)
    if (state !== 'ready') return state
    return this.#prompt.avoided.has(deviceId) ? 'failed-before' : undefined
  }

  #prefillMs({ table, device }: LoadedModel, haveTokens: number): number {
    return this.#prefillMsAt(table, device.row, haveTokens)
  }

  #prefillMsAt(table: ModelTable, row: number, haveTokens: number): number {
    const tokens = this.#prompt.prefillTokens - haveTokens
    const ownMs = prefillMsAt(table, row, tokens, haveTokens, this.#sharedEfficiency)
    const isContended = ((table.flags[row] ?? 0) & CONTENDED) !== 0
    const model = isContended ? table.loaded[row] : undefined
    return model ? ownMs + this.#othersMs(model) : ownMs
  }

  /** Prompts of other models wait for the same arithmetic. */
  #othersMs(model: LoadedModel): number {
    let ms = 0
    for (const { device, facts, prefillTokensAhead } of model.device.models) {
      if (facts === model.facts || prefillTokensAhead === 0) continue
      ms += this.#costs.aheadMs(device.facts, facts, prefillTokensAhead, this.#prompt.prefillTokens)
    }
    return ms
  }

  /** Tokens of whole blocks of which at least one token is left. */
  #reusableTokens(blockTokens: number): number {
    return Math.floor((this.#prompt.prefillTokens - 1) / blockTokens) * blockTokens
  }

  /** Of the first block; a device with one tier need not say. */
  #tier(deviceId: string): string {
    const told = this.#directory.tierOf(deviceId, this.#prompt.blockHashes)
    const tiers = this.#view.device(deviceId)?.facts.tiers ?? []
    return told === '' && tiers.length === 1 ? (tiers[0]?.name ?? '') : told
  }

  /** Writes into the model's table which devices hold how much, the first time that it is asked for. */
  #stampOf(table: ModelTable): number {
    if (table === this.#table) return this.#stamp
    this.#table = table
    this.#stamp = table.newStamp()
    this.#heldCount = 0
    const { heldStamps, heldBlocks, heldRows, loaded } = table
    const isOneVariant = table.variants.size === 1
    for (const variant of table.variants) {
      const match = this.#match(variant)
      for (let at = 0; at < match.length; at += 1) {
        const label = match.labelAt(at)
        const row = label >= 0 ? label : (this.#view.device(match.deviceIdAt(at))?.row ?? -1)
        // A device may hold blocks of it for another model of the same variant.
        if (row < 0 || row >= heldRows.length) continue
        if (!isOneVariant && loaded[row]?.facts.variant !== variant) continue
        heldStamps[row] = this.#stamp
        heldBlocks[row] = match.blocksAt(at)
        heldRows[this.#heldCount] = row
        this.#heldCount += 1
      }
    }
    return this.#stamp
  }

  #match(variant: string): PrefixMatch {
    const known = this.#matches.get(variant)
    if (known) return known
    const match = this.#directory.match(this.#prompt.blockHashes, variant)
    this.#matches.set(variant, match)
    return match
  }
}
