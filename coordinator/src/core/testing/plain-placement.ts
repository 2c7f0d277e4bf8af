/**
 * Placement as it is meant, without any haste: every device is filtered, weighed and paired in the plainest
 * way. What serves must decide and explain the same (placement.test.ts).
 */
import { type AttentionAsk, isRemote, mayOffload } from '../attention-choice.js'
import { chooseAttention } from '../attention-full.js'
import type { AttentionPlan } from '../attention-plan.js'
import { hashCount } from '../block-hashes.js'
import type { ClusterView, DeviceView } from '../cluster-view.js'
import {
  type Decision,
  FILTER_REASONS,
  type FilterReason,
  PAIRS_KEPT,
  type PassedOver,
  type PlacedRole,
} from '../decision.js'
import type { PlacementLimits } from '../device-filter.js'
import { modelOn, type ProfileName, preferredRole, type Role } from '../facts.js'
import type { LoadedModel } from '../loaded-model.js'
import type { PlacementInput, PlacementOutcome, PlacementView } from '../placement.js'
import type { PolicySetting } from '../placement-policy.js'
import { PrefixChoice } from '../prefix-choice.js'
import type { PrefixPlan } from '../prefix-plan.js'
import { blocksOn } from './blocks-on.js'

const BLOCK = 16
const PAIRED_MAX = 8

type PlainLimits = PlacementLimits & { readonly policy?: PolicySetting }

interface Weighed {
  readonly model: LoadedModel
  readonly roleMs: number
}
type Prefiller = Weighed & { readonly plan: PrefixPlan }
type Decoder = Weighed & { readonly attention: AttentionPlan }
interface Pair {
  readonly prefiller: Prefiller
  readonly decoder: Decoder
  readonly heldByDecodeTokens: number
  readonly startMs: number
  readonly totalMs: number
}

export function plainPlace(
  input: PlacementInput,
  cluster: PlacementView,
  limits: PlainLimits,
  nowMs: number,
): PlacementOutcome {
  const tried: PassedOver[] = []
  for (const profile of input.profiles) {
    const outcome = new PlainPlacement(profile, input, cluster, limits, nowMs).place()
    if ('decode' in outcome) return { placed: true, decision: { ...outcome, passedOver: tried[0] ?? null } }
    tried.push(outcome)
  }
  return { placed: false, tried }
}

class PlainPlacement {
  readonly #counts = { prefill: zeros(), decode: zeros(), attend: zeros() }
  readonly #steps: number
  readonly #prefix: PrefixChoice

  constructor(
    readonly profile: ProfileName,
    readonly input: PlacementInput,
    readonly cluster: PlacementView,
    readonly limits: PlainLimits,
    readonly nowMs: number,
  ) {
    const { view, costs, directory } = cluster
    this.#steps = Math.min(input.tokensLeft, 256)
    this.#prefix = new PrefixChoice(input, profile, view, costs, directory, nowMs)
  }

  place(): Decision | PassedOver {
    const { input } = this
    const { attention, prefillTokens } = input
    const isOffloading = mayOffload({ ...attention, contextTokens: prefillTokens }, this.#steps)
    const prefillers = this.#able('prefill').map((model) => ({ model, roleMs: this.#localMs(model) }))
    const decodeModels = this.#able('decode')
    const attendants = isOffloading ? this.#able('attend') : []
    const isAssisted = this.limits.policy?.decodeAssist !== false || !this.#hasDecoder()
    const decoders = decodeModels.flatMap((model) => {
      if (!isAssisted && !prefers(model, 'decode')) {
        this.#turnAway('decode', 'assist')
        return []
      }
      const plan = this.#attention(model, model.device, attendants)
      if (!plan) this.#turnAway('decode', 'attend')
      return plan ? [{ model, roleMs: plan.stepMs, attention: plan }] : []
    })
    const first = prefillers.filter(({ model }) => prefers(model, 'prefill'))
    const prefilling = this.#planned(first.length > 0 ? first : prefillers)
    if (this.limits.policy?.pick === 'earliest-finish') {
      const byPreference = [true, false].flatMap((isFirst) => {
        return quickest(decoders.filter(({ model }) => prefers(model, 'decode') === isFirst))
      })
      return this.#decision(
        this.#pairs(this.#planned(prefillers), byPreference),
        attendants,
        'earliest-finish',
        'earliest-finish',
      )
    }
    const usual = this.#pairs(prefilling, quickest(decoders.filter(({ model }) => prefers(model, 'decode'))))
    const unusual = this.#pairs(
      prefilling,
      quickest(decoders.filter(({ model }) => !prefers(model, 'decode'))),
    )
    const isAsked = isRemote(attention.wish)
    let decodeRule: Decision['decodeRule'] = usual[0] ? 'free-slot' : 'no-free-slot'
    if (isAsked && unusual[0]?.decoder.attention.attend) decodeRule = 'offloads'
    else if (usual[0] && unusual[0] && this.#isMuchFaster(unusual[0], usual[0])) decodeRule = 'much-faster'
    const isUnusual = decodeRule === 'offloads' || decodeRule === 'much-faster'
    let ranked = isUnusual ? [...unusual, ...usual] : [...usual, ...unusual]
    let prefillRule: Decision['prefillRule'] = first.length > 0 ? 'prefers-prefill' : 'only-one-left'
    const alone = this.#alone(isAsked ? [] : prefillers, decoders)
    if (alone && ranked[0] && first.length > 0 && alone.totalMs < ranked[0].totalMs) {
      if (alone.startMs * 1.05 < ranked[0].startMs) {
        ranked = [alone, ...ranked]
        prefillRule = 'holds-prefix'
        decodeRule = 'free-slot'
      }
    }
    return this.#decision(ranked, attendants, prefillRule, decodeRule)
  }

  #decision(
    ranked: readonly Pair[],
    attendants: readonly LoadedModel[],
    prefillRule: Decision['prefillRule'],
    decodeRule: Decision['decodeRule'],
  ): Decision | PassedOver {
    const { input, profile } = this
    const best = ranked[0]
    if (!best) return { profile, filtered: this.#counts }
    const { prefiller, decoder } = best
    const told = this.#attention(decoder.model, prefiller.model.device, attendants)
    return {
      requestId: input.requestId,
      epoch: input.epoch,
      ...this.#told(best),
      profile,
      numerics: decoder.model.facts.numerics,
      prefillNumerics: prefiller.model.facts.numerics,
      prefillRule,
      decodeRule,
      prefix: {
        ...this.#prefix.plan(prefiller.model),
        blocks: hashCount(input.blockHashes),
        heldByDecodeTokens: best.heldByDecodeTokens,
      },
      attention: told ?? decoder.attention,
      movedBecause: input.movedBecause,
      weighed: ranked.slice(0, PAIRS_KEPT).map((pair) => this.#told(pair)),
      filtered: this.#counts,
      passedOver: null,
    }
  }

  #hasDecoder(): boolean {
    const { view } = this.cluster
    const named = { digest: this.input.modelDigest, profile: this.profile }
    return [...view.devices()].some(({ facts, ref }) => {
      const isThere = view.model(ref, named)?.isThere === true && preferredRole(facts) === 'decode'
      return isThere && isReadyOrDraining(view, facts.deviceId, this.nowMs)
    })
  }

  #told({ prefiller, decoder }: Pair) {
    const [prefill, decode] = [prefiller.model.device.ref, decoder.model.device.ref]
    return { prefill, decode, ttftMs: prefiller.plan.prefillMs, tpotMs: decoder.roleMs }
  }

  #able(role: PlacedRole): LoadedModel[] {
    const devices = [...this.cluster.view.devices()]
      .filter(({ facts }) => facts.models.length > 0)
      .sort((a, b) => a.row - b.row)
    return devices.flatMap((device) => {
      const reason = this.#against(device, role)
      if (reason) this.#turnAway(role, reason)
      const model = this.cluster.view.model(device.ref, {
        digest: this.input.modelDigest,
        profile: this.profile,
      })
      return reason || !model ? [] : [model]
    })
  }

  #against({ facts, ref }: DeviceView, role: PlacedRole): FilterReason | undefined {
    const { input, limits, nowMs } = this
    const view: ClusterView = this.cluster.view
    const state = view.state(facts.deviceId, nowMs)
    if (state !== 'ready') return state
    if (facts.protocolVersion < limits.protocolVersionMin) return 'protocol'
    if (facts.protocolVersionMin > limits.protocolVersion) return 'protocol'
    const model = modelOn(facts, input.modelDigest, this.profile)
    const loaded = view.model(ref, { digest: input.modelDigest, profile: this.profile })
    if (!model || !loaded || model.contextTokensMax < input.prefillTokens) return 'model'
    if (!facts.capabilities.includes(role)) return 'capability'
    const pages = Math.floor(input.prefillTokens / BLOCK)
    const kernel = (name: string) => facts.kernels.filter((one) => one.name === name && one.version >= 1)
    const answers = kernel('choose-pages').some(({ limits: { pages: most } }) => pages <= (most ?? Infinity))
    if (role === 'attend' && !answers) return 'capability'
    const { wish, settled } = input.attention
    const method = settled?.method ?? wish?.method ?? 'auto'
    const isPaged = (method !== 'auto' && method !== 'dense') || isRemote(wish)
    const needsPages = role === 'attend' || (role === 'decode' && isPaged)
    if (needsPages && model.slidingWindowTokens !== undefined) return 'sliding-window'
    if (needsPages && role === 'decode' && kernel('page-scores').length === 0) return 'capability'
    const tokens = { prefill: input.prefillTokens, decode: input.reserveTokens, attend: pages * BLOCK }[role]
    const bytes = Math.ceil(tokens / BLOCK) * BLOCK * model.poolBytesPerToken
    if (bytes > loaded.kvBytesMax) return 'too-small'
    if (input.avoided.has(facts.deviceId)) return 'failed-before'
    if ((view.table.refusedUntilMs[loaded.device.row] ?? 0) > nowMs) return 'refused'
    if (role === 'decode' && loaded.slotsUsed >= facts.decodeSlots) return 'slots'
    return bytes > loaded.kvBytesFree ? 'memory' : undefined
  }

  #turnAway(role: PlacedRole, reason: FilterReason): void {
    const index = FILTER_REASONS.indexOf(reason)
    this.#counts[role][index] = (this.#counts[role][index] ?? 0) + 1
  }

  /** As the cost model says, behind what waits of this model and of the others. */
  #localMs({ device, facts, prefillTokensAhead }: LoadedModel): number {
    const { costs, directory } = this.cluster
    const { prefillTokens, blockHashes } = this.input
    const held = blocksOn(directory.match(blockHashes, facts.variant), device.facts.deviceId) * BLOCK
    const have = Math.min(held, Math.floor((prefillTokens - 1) / BLOCK) * BLOCK)
    const ownMs = costs.prefillMs(device.facts, facts, prefillTokens - have, have, prefillTokensAhead)
    const others = device.models.filter((other) => other.facts !== facts && other.prefillTokensAhead > 0)
    return others.reduce(
      (ms, other) => ms + costs.aheadMs(device.facts, other.facts, other.prefillTokensAhead, prefillTokens),
      ownMs,
    )
  }

  #attention(
    decoder: LoadedModel,
    prefill: DeviceView,
    attendants: readonly LoadedModel[],
  ): AttentionPlan | undefined {
    const { costs, stageCosts } = this.cluster
    const decode = decoder.device.facts
    const { wish } = this.input.attention
    const choosesPages = decode.kernels.some(({ name, version }) => name === 'page-scores' && version >= 1)
    const others = attendants.map(({ device }) => device.facts).filter((facts) => facts !== decode)
    const byRule = isRemote(wish) ? others : others.filter((facts) => preferredRole(facts) !== 'prefill')
    const isAlone = !choosesPages || (preferredRole(decode) === 'decode' && !isRemote(wish))
    const ask: AttentionAsk = {
      ...this.input.attention,
      choosesPages,
      contextTokens: this.input.prefillTokens,
      batch: decoder.slotsUsed + 1,
    }
    const steps = Math.max(1, this.#steps)
    const site = { model: decoder.facts, prefill: prefill.facts, decode, steps, costs, stageCosts }
    return chooseAttention(ask, site, isAlone ? [] : byRule)
  }

  #planned(candidates: readonly Weighed[]): Prefiller[] {
    return quickest(candidates).map((one) => ({ ...one, plan: this.#prefix.plan(one.model) }))
  }

  #pairs(prefillers: readonly Prefiller[], decoders: readonly Decoder[]): Pair[] {
    return prefillers
      .flatMap((prefiller) => decoders.map((decoder) => this.#pair(prefiller, decoder)))
      .sort(comparePlain)
  }

  #pair(prefiller: Prefiller, decoder: Decoder): Pair {
    const [from, to] = [prefiller.model.device, decoder.model.device]
    const heldByDecodeTokens = from === to ? 0 : this.#prefix.heldTokens(decoder.model)
    const { kvBytesPerToken, layers } = prefiller.model.facts
    const blocks = Math.ceil((this.input.prefillTokens - heldByDecodeTokens) / BLOCK)
    const bytes = blocks * BLOCK * kvBytesPerToken
    const sentMs = this.cluster.costs.transferMs(from.facts, to.facts, bytes)
    const { prefillMs } = prefiller.plan
    const count = Math.max(1, layers)
    const startMs = prefillMs + Math.max(sentMs / count, sentMs - (prefillMs * (count - 1)) / count)
    const totalMs = startMs + (this.#steps - 1) * decoder.roleMs
    return { prefiller, decoder, heldByDecodeTokens, startMs, totalMs }
  }

  #alone(prefillers: readonly Weighed[], decoders: readonly Decoder[]): Pair | undefined {
    const holders = prefillers.flatMap((one) => {
      const decoder = decoders.find(({ model }) => model === one.model)
      const isHolder = prefers(one.model, 'decode') && this.#prefix.localTokens(one.model) > 0
      return decoder && isHolder ? [{ ...one, decoder }] : []
    })
    const pairs = quickest(holders).map((one) => {
      return this.#pair({ ...one, plan: this.#prefix.plan(one.model) }, one.decoder)
    })
    return pairs.sort(comparePlain)[0]
  }

  #isMuchFaster(pair: Pair, than: Pair): boolean {
    const isTrusted = [pair, than].every(({ decoder: { model } }) => {
      return this.cluster.costs.isTrusted(model.device.facts, model.facts, 'decode')
    })
    return isTrusted && pair.totalMs < 0.25 * than.totalMs
  }
}

function isReadyOrDraining(view: ClusterView, deviceId: string, nowMs: number): boolean {
  return view.state(deviceId, nowMs) !== 'lost'
}

function zeros(): number[] {
  return FILTER_REASONS.map(() => 0)
}

function prefers({ device }: LoadedModel, role: Role): boolean {
  return preferredRole(device.facts) === role
}

function quickest<T extends Weighed>(candidates: readonly T[]): T[] {
  return candidates.toSorted((a, b) => a.roleMs - b.roleMs).slice(0, PAIRED_MAX)
}

function comparePlain(a: Pair, b: Pair): number {
  const step = ({ totalMs }: Pair): number => Math.round(Math.log(totalMs) / Math.log(1.05))
  const ids = ({ prefiller, decoder }: Pair) =>
    `${prefiller.model.device.ref.deviceId} ${decoder.model.device.ref.deviceId}`
  return (
    step(a) - step(b) ||
    a.decoder.model.slotsUsed - b.decoder.model.slotsUsed ||
    a.totalMs - b.totalMs ||
    (ids(a) < ids(b) ? -1 : 1)
  )
}
