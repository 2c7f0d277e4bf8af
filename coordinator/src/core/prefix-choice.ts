/**
 * The best way for a device to have the beginning of a prompt: what it holds itself, the rest of what is
 * cached from one other device where fetching is predicted to be faster than computing, and the rest
 * computed.
 *
 * P1. At least one token is computed on the device that prefills: its logits give the first new token.
 *     A device that only receives KV may hold all blocks of the prompt.
 * P2. Blocks are taken from a device that is ready and whose variant is the receiver's.
 */
import type { BlockHashes } from './block-hashes.js'
import type { ClusterView, DeviceView } from './cluster-view.js'
import type { CostModel } from './cost-model.js'
import { CONTENDED, type ModelTable } from './device-table.js'
import type { DeviceRef, ProfileName } from './facts.js'
import { BLOCK_TOKENS } from './kv-blocks.js'
import type { KvDirectory } from './kv-directory.js'
import type { LoadedModel } from './loaded-model.js'
import type { PrefixMatch } from './prefix-match.js'
import { prefillMsAt } from './row-times.js'

/** Sources weighed for one device, the longest runs first. */
const SOURCES_MAX = 8
/** Sources that were not used and are remembered. */
const UNUSED_KEPT = 4

export interface Prompt {
  readonly modelDigest: string
  /** Hashes of the full blocks that may be reused, in order; empty where nothing may. */
  readonly blockHashes: BlockHashes
  /** Tokens to prefill. */
  readonly prefillTokens: number
  /** Devices that failed this request a moment ago. */
  readonly avoided: ReadonlySet<string>
}

/** Cached blocks on another device. */
export interface PlannedFetch {
  readonly device: DeviceRef
  /** Leading tokens of the prompt that are there, those held locally included. */
  readonly tokens: number
  readonly tier: string
  readonly fetchMs: number
  /** Of computing them instead. */
  readonly computeMs: number
}

/** A device that holds more of the prompt and was not asked. */
export interface UnusedSource {
  readonly deviceId: string
  readonly tokens: number
  readonly tier: string
  readonly why: 'slower' | 'second-best' | 'lost' | 'draining' | 'failed-before'
  /** Predicted; 0 where it could not be asked. */
  readonly fetchMs: number
  readonly computeMs: number
  /** Of the whole prefill with it, as PrefixPlan.prefillMs. */
  readonly prefillMs: number
}

/** How one device would prefill. */
export interface PrefixPlan {
  readonly localTokens: number
  readonly localTier: string
  readonly fetch: PlannedFetch | null
  /** What is left to compute, and the time of that alone. */
  readonly computeTokens: number
  readonly computeMs: number
  /** The fetch and the wait for other prompts, which go on at the same time, and the computation. */
  readonly prefillMs: number
  /** The same with nothing fetched. */
  readonly unfetchedMs: number
  readonly unused: readonly UnusedSource[]
}

interface Source {
  readonly tier: string
  /** Why it is not asked; `slower` where it may be, until it is weighed. */
  readonly why: UnusedSource['why']
  readonly from: DeviceView | undefined
}

interface Weighed {
  readonly fetchMs: number
  readonly restMs: number
}

const NOT_ASKED: Weighed = { fetchMs: 0, restMs: 0 }

export class PrefixChoice {
  readonly #prompt: Prompt
  readonly #view: ClusterView
  readonly #costs: CostModel
  readonly #directory: KvDirectory
  readonly #nowMs: number
  /** Of devices that were not measured yet. */
  readonly #sharedEfficiency: number
  readonly #matches = new Map<string, PrefixMatch>()
  readonly #known = new Map<string, Source>()

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
  heldTokens({ device, facts }: LoadedModel): number {
    return this.#match(facts.variant).blocksOn(device.facts.deviceId) * BLOCK_TOKENS
  }

  /** Tokens that a prefilling device need not compute since it holds them. */
  localTokens(model: LoadedModel): number {
    return Math.min(this.heldTokens(model), this.#reusableTokens)
  }

  /** With nothing fetched, milliseconds: the quick look by which the devices to plan for are chosen. */
  localMs(model: LoadedModel): number {
    return this.#prefillMs(model, this.localTokens(model))
  }

  /** Leading blocks of the prompt on the few devices that have the model and hold any, by row. */
  forEachHolder(table: ModelTable, does: (row: number, blocks: number) => void): void {
    const isOne = table.variants.size === 1
    for (const variant of table.variants) {
      this.#match(variant).forEach((deviceId, blocks) => {
        const row = this.#view.device(deviceId)?.row
        if (row === undefined) return
        if (isOne || table.loaded[row]?.facts.variant === variant) does(row, blocks)
      })
    }
  }

  /** As `localMs` of the model in this row, `blocks` of the prompt being there. */
  localMsAt(table: ModelTable, row: number, blocks: number): number {
    return this.#prefillMsAt(table, row, Math.min(blocks * BLOCK_TOKENS, this.#reusableTokens))
  }

  /** `isTold`: with the sources that are not used, which are of interest for the chosen device alone. */
  plan(model: LoadedModel, isTold = false): PrefixPlan {
    const { device, facts } = model
    const { deviceId } = device.facts
    const localTokens = this.localTokens(model)
    const localMs = this.#prefillMs(model, localTokens)
    const aheadTokens = model.prefillTokensAhead
    const aheadMs =
      (aheadTokens > 0 ? this.#costs.prefillMs(device.facts, facts, aheadTokens) : 0) + this.#othersMs(model)
    let best: { fetch: PlannedFetch; totalMs: number } | undefined
    const seen: UnusedSource[] = []
    for (const holder of this.#match(facts.variant).longest(localTokens / BLOCK_TOKENS, SOURCES_MAX + 1)) {
      const tokens = Math.min(holder.blocks * BLOCK_TOKENS, this.#reusableTokens)
      if (holder.deviceId === deviceId || tokens <= localTokens) continue
      const source = this.#source(holder.deviceId)
      const { tier, from } = source
      const weighed =
        source.why === 'slower' && from ? this.#fetch(from, model, tokens, localTokens) : NOT_ASKED
      const { fetchMs, restMs } = weighed
      const isAsked = weighed !== NOT_ASKED
      const totalMs = restMs + Math.max(0, fetchMs - aheadMs)
      const computeMs = isAsked ? localMs - restMs : 0
      if (isAsked && from && totalMs < (best?.totalMs ?? localMs)) {
        best = { fetch: { device: from.ref, tokens, tier, fetchMs, computeMs }, totalMs }
      }
      // One more than is told, since one of them may be the chosen one.
      if (!isTold || seen.length > UNUSED_KEPT) continue
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

  /** Times of having `tokens` from another device, and of computing what is left then. */
  #fetch(from: DeviceView, model: LoadedModel, tokens: number, localTokens: number): Weighed {
    const bytes = (tokens - localTokens) * model.facts.kvBytesPerToken
    return {
      fetchMs: this.#costs.fetchMs(from.facts, model.device.facts, bytes),
      restMs: this.#prefillMs(model, tokens),
    }
  }

  /** The same for whichever device asks. */
  #source(deviceId: string): Source {
    const known = this.#known.get(deviceId)
    if (known) return known
    const from = this.#view.device(deviceId)
    const source = { tier: this.#tier(deviceId), why: this.#whyNot(deviceId) ?? 'slower', from }
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
      ms += this.#costs.prefillMs(device.facts, facts, prefillTokensAhead)
    }
    return ms
  }

  get #reusableTokens(): number {
    return Math.floor((this.#prompt.prefillTokens - 1) / BLOCK_TOKENS) * BLOCK_TOKENS
  }

  /** Of the first block; a device with one tier need not say. */
  #tier(deviceId: string): string {
    const told = this.#directory.tierOf(deviceId, this.#prompt.blockHashes)
    const tiers = this.#view.device(deviceId)?.facts.tiers ?? []
    return told === '' && tiers.length === 1 ? (tiers[0]?.name ?? '') : told
  }

  #match(variant: string): PrefixMatch {
    const known = this.#matches.get(variant)
    if (known) return known
    const match = this.#directory.match(this.#prompt.blockHashes, variant)
    this.#matches.set(variant, match)
    return match
  }
}
