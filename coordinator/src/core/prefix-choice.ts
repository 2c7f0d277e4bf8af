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
import type { ClusterView } from './cluster-view.js'
import type { CostModel } from './cost-model.js'
import type { DeviceRef, ModelFacts } from './facts.js'
import { BLOCK_TOKENS } from './kv-blocks.js'
import type { KvDirectory } from './kv-directory.js'
import type { LoadedModel } from './loaded-model.js'
import type { PrefixMatch } from './prefix-match.js'

/** Sources weighed for one device, the longest runs first. */
const SOURCES_MAX = 8
/** Sources that were not used and are remembered. */
const UNUSED_KEPT = 4

export interface Prompt {
  /** Hashes of the full blocks that may be reused, in order; empty where nothing may. */
  readonly blockHashes: BlockHashes
  /** Tokens to prefill. */
  readonly prefillTokens: number
  /** Devices that failed this request a moment ago. */
  readonly avoids: (deviceId: string) => boolean
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

export class PrefixChoice {
  readonly #prompt: Prompt
  readonly #view: ClusterView
  readonly #costs: CostModel
  readonly #directory: KvDirectory
  readonly #nowMs: number
  readonly #matches = new Map<string, PrefixMatch>()

  constructor(prompt: Prompt, view: ClusterView, costs: CostModel, directory: KvDirectory, nowMs: number) {
    this.#prompt = prompt
    this.#view = view
    this.#costs = costs
    this.#directory = directory
    this.#nowMs = nowMs
  }

  /** Tokens that need not be sent to a device which another one prefills for. */
  heldTokens({ device, facts }: LoadedModel): number {
    return this.#match(facts).blocksOn(device.facts.deviceId) * BLOCK_TOKENS
  }

  /** Tokens that a prefilling device need not compute since it holds them. */
  localTokens(model: LoadedModel): number {
    return Math.min(this.heldTokens(model), this.#reusableTokens)
  }

  /** With nothing fetched, milliseconds: the quick look by which the devices to plan for are chosen. */
  localMs(model: LoadedModel): number {
    return this.#prefillMs(model, this.localTokens(model))
  }

  plan(model: LoadedModel): PrefixPlan {
    const { device, facts } = model
    const { deviceId } = device.facts
    const localTokens = this.localTokens(model)
    const localMs = this.#prefillMs(model, localTokens)
    const aheadTokens = model.prefillTokensAhead
    const aheadMs =
      (aheadTokens > 0 ? this.#costs.prefillMs(device.facts, facts, aheadTokens) : 0) + this.#othersMs(model)
    let best: { fetch: PlannedFetch; totalMs: number } | undefined
    const seen: UnusedSource[] = []
    for (const source of this.#sources(deviceId, facts, localTokens)) {
      if (source.why !== 'slower') {
        seen.push(source)
        continue
      }
      const from = this.#view.device(source.deviceId)
      if (!from) continue
      const bytes = (source.tokens - localTokens) * facts.kvBytesPerToken
      const fetchMs = this.#costs.fetchMs(from.facts, device.facts, bytes)
      const restMs = this.#prefillMs(model, source.tokens)
      const totalMs = restMs + Math.max(0, fetchMs - aheadMs)
      const computeMs = localMs - restMs
      const why = totalMs < localMs ? 'second-best' : 'slower'
      seen.push({ ...source, why, fetchMs, computeMs, prefillMs: totalMs })
      if (totalMs >= (best?.totalMs ?? localMs)) continue
      const { tokens, tier } = source
      best = { fetch: { device: from.ref, tokens, tier, fetchMs, computeMs }, totalMs }
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

  /** Devices with more of the prompt than `localTokens`; those that may be asked are marked `slower` until weighed. */
  #sources(deviceId: string, model: ModelFacts, localTokens: number): UnusedSource[] {
    const localBlocks = localTokens / BLOCK_TOKENS
    const holders = this.#match(model).longest(localBlocks, SOURCES_MAX + 1)
    return holders.flatMap((holder) => {
      const tokens = Math.min(holder.blocks * BLOCK_TOKENS, this.#reusableTokens)
      if (holder.deviceId === deviceId || tokens <= localTokens) return []
      const tier = this.#tier(holder.deviceId)
      const why = this.#whyNot(holder.deviceId) ?? 'slower'
      return [{ deviceId: holder.deviceId, tokens, tier, why, fetchMs: 0, computeMs: 0, prefillMs: 0 }]
    })
  }

  #whyNot(deviceId: string): UnusedSource['why'] | undefined {
    const state = this.#view.state(deviceId, this.#nowMs)
    if (state !== 'ready') return state
    return this.#prompt.avoids(deviceId) ? 'failed-before' : undefined
  }

  #prefillMs(model: LoadedModel, haveTokens: number): number {
    const { device, facts, prefillTokensAhead } = model
    const tokens = this.#prompt.prefillTokens - haveTokens
    const ownMs = this.#costs.prefillMs(device.facts, facts, tokens, haveTokens, prefillTokensAhead)
    return ownMs + this.#othersMs(model)
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

  #match(model: ModelFacts): PrefixMatch {
    const known = this.#matches.get(model.variant)
    if (known) return known
    const match = this.#directory.match(this.#prompt.blockHashes, model.variant)
    this.#matches.set(model.variant, match)
    return match
  }
}
