/**
 * Predicts how long a stage takes on a device: a roofline with links,
 * `t = max(operations / (peak · efficiency), bytes / (bandwidth · efficiency)) + link`.
 *
 * An efficiency belongs to (device, model, role). It moves towards what finished
 * requests measured (exponentially weighted, bounded), never towards spans. Before a
 * device's first record it is what the other devices reached with that model, so that
 * a device nobody has tried is neither feared nor favoured. Rates of links are
 * learned the same way from transfers and fetches.
 *
 * C1. A prediction is finite and above zero whatever a device advertises.
 * C2. An efficiency stays within [EFFICIENCY_MIN, EFFICIENCY_MAX].
 */
import type { CompletionRecord } from './completion-record.js'
import type { DeviceFacts, ModelFacts, ProfileName, Role } from './facts.js'
import { LinkRates } from './link-rates.js'
import { linkMs, movingMs, peakBytes, peakOps, rooflineMs } from './roofline.js'

const EFFICIENCY_MIN = 1e-4
/** Above 1, since a CPU's advertised peak may be cautious. */
const EFFICIENCY_MAX = 4
/** Published utilisations of GPUs and FPGAs lie between 0.3 and 0.6 of the peak that binds. */
const EFFICIENCY_GUESS = 0.4
/** Weight of the newest record: a tenth of an old value is left after about ten records. */
const RECORD_WEIGHT = 0.2
/** A step of nothing still takes a microsecond, which keeps every ratio finite. */
const STEP_MS_MIN = 1e-3
/** A fetch of less tells more of setting it up, and of one bad moment, than of the link. */
const FETCH_LEARNED_BYTES_MIN = 1 << 20
/** Records after which a measured efficiency outweighs one bad moment. */
const RECORDS_TRUSTED = 8

interface Efficiency {
  readonly value: number
  readonly records: number
}

/** What went from one device to another. */
interface Between {
  readonly fromDeviceId: string
  readonly toDeviceId: string
  readonly bytes: number
}

/** What was learned of one model in one role. */
interface Learned {
  /** Of all devices together. */
  any: Efficiency | undefined
  readonly own: Map<string, Efficiency>
}

export class CostModel {
  /** By digest, profile and role: asked for hundreds of times a placement, so without making text of them. */
  readonly #learned = new Map<string, Record<ProfileName, Record<Role, Learned>>>()
  readonly #links = new LinkRates()

  /**
   * Time to run a prompt of `tokens` after `contextTokens` whose KV is there, milliseconds, with `tokensAhead` of other
   * prompts that come before it. Of those only the sum is known, so each is taken to be as long as this one with what it
   * reuses: n of them take n times as long, whichever part of this one is there already. Nothing attends across prompts,
   * so that one prompt of all their tokens would be far too long, and rows without attention too short.
   */
  prefillMs(
    device: DeviceFacts,
    model: ModelFacts,
    tokens: number,
    contextTokens = 0,
    tokensAhead = 0,
  ): number {
    const idealMs = prefillIdealOn(device, model, tokens, contextTokens, tokensAhead)
    return idealMs / this.efficiency(device, model, 'prefill')
  }

  /** Time until `tokensAhead` of prompts that wait are computed, milliseconds; each is taken to be `promptTokens` long. */
  aheadMs(device: DeviceFacts, model: ModelFacts, tokensAhead: number, promptTokens: number): number {
    const lastTokens = Math.min(tokensAhead, promptTokens)
    return this.prefillMs(device, model, lastTokens, 0, tokensAhead - lastTokens)
  }

  /** Time of one decode step shared by `batch` sequences of `contextTokens` each, milliseconds. */
  stepMs(device: DeviceFacts, model: ModelFacts, batch: number, contextTokens: number): number {
    return stepIdealOn(device, model, batch, contextTokens) / this.efficiency(device, model, 'decode')
  }

  /** Whether predictions rest on a catalogue or on enough records, and not on a device's own first guess. */
  isTrusted(device: DeviceFacts, model: ModelFacts, role: Role): boolean {
    if (device.modelled) return true
    return (this.#of(model)?.[role].own.get(device.deviceId)?.records ?? 0) >= RECORDS_TRUSTED
  }

  /** Rate that was seen from one device to another; undefined before the first transfer. */
  seenRate(fromDeviceId: string, toDeviceId: string): number | undefined {
    return this.#links.seen(fromDeviceId, toDeviceId)
  }

  /** Time to move `bytes` from one device to another with the link to themselves, milliseconds. */
  transferMs(from: DeviceFacts, to: DeviceFacts, bytes: number): number {
    return linkMs(from, to, bytes, this.seenRate(from.deviceId, to.deviceId))
  }

  /** Time from asking a device for cached blocks to their last byte, milliseconds. */
  fetchMs(from: DeviceFacts, to: DeviceFacts, bytes: number): number {
    return this.transferMs(from, to, bytes) + from.link.latencyMs + to.link.latencyMs
  }

  /** Learns from a finished request. `facts` finds a device that is still known. */
  observe(record: CompletionRecord, facts: (deviceId: string) => DeviceFacts | undefined): void {
    const on = (deviceId: string): [DeviceFacts, ModelFacts] | undefined => {
      const device = facts(deviceId)
      const model = device?.models.find(
        (loaded) => loaded.digest === record.modelDigest && loaded.profile === record.profile,
      )
      return device && model ? [device, model] : undefined
    }
    const { prefill, decode, transfer, fetch } = record
    const prefilledOn = prefill && on(prefill.deviceId)
    // What is left of a prompt that was mostly reused takes one step, which says little of a whole prompt.
    if (prefill && prefilledOn && prefill.contextTokens <= prefill.tokens) {
      const idealMs = prefillIdealOn(...prefilledOn, prefill.tokens, prefill.contextTokens)
      this.#learn(...prefilledOn, 'prefill', idealMs, prefill.computeMs)
    }
    const decodedOn = decode && on(decode.deviceId)
    if (decode && decodedOn && decode.steps > 0) {
      const idealMs = decode.steps * stepIdealOn(...decodedOn, decode.batch, decode.contextTokens)
      this.#learn(...decodedOn, 'decode', idealMs, decode.stepsMs)
    }
    // Of one that has left nothing is learned, since nobody would ever forget it.
    const latencyMs = ({ fromDeviceId, toDeviceId }: Between): number | undefined => {
      const [from, to] = [facts(fromDeviceId), facts(toDeviceId)]
      return from && to && from.link.latencyMs + to.link.latencyMs
    }
    // A rate is the bytes' alone: what transferMs and fetchMs add for latency is taken off what was seen.
    const transferLatencyMs = transfer && latencyMs(transfer)
    if (transfer && transferLatencyMs !== undefined) {
      this.#learnLink(transfer, movingMs(transfer.busyMs, transferLatencyMs))
    }
    const fetchLatencyMs = fetch && latencyMs(fetch)
    if (fetch && fetchLatencyMs !== undefined && fetch.bytes >= FETCH_LEARNED_BYTES_MIN) {
      this.#learnLink(fetch, movingMs(fetch.fetchMs, 2 * fetchLatencyMs))
    }
  }

  /** Drops what was learned of a device that left. */
  forget(deviceId: string): void {
    for (const profiles of this.#learned.values()) {
      for (const roles of Object.values(profiles)) {
        for (const { own } of Object.values(roles)) own.delete(deviceId)
      }
    }
    this.#links.forget(deviceId)
  }

  /** The share of its roofline that the device reaches, as far as is known. */
  efficiency(device: Pick<DeviceFacts, 'deviceId'>, model: ModelFacts, role: Role): number {
    const learned = this.#of(model)?.[role]
    if (!learned) return EFFICIENCY_GUESS
    return learned.own.get(device.deviceId)?.value ?? learned.any?.value ?? EFFICIENCY_GUESS
  }

  /** What `efficiency` is of a device that was not measured yet. */
  sharedEfficiency(model: Pick<ModelFacts, 'digest' | 'profile'>, role: Role): number {
    return this.#of(model)?.[role].any?.value ?? EFFICIENCY_GUESS
  }

  /** What the device itself was seen to reach; NaN before. */
  ownEfficiency(device: Pick<DeviceFacts, 'deviceId'>, model: ModelFacts, role: Role): number {
    return this.#of(model)?.[role].own.get(device.deviceId)?.value ?? Number.NaN
  }

  #of({ digest, profile }: Pick<ModelFacts, 'digest' | 'profile'>): Record<Role, Learned> | undefined {
    return this.#learned.get(digest)?.[profile]
  }

  #learnLink({ fromDeviceId, toDeviceId, bytes }: Between, busyMs: number): void {
    if (!(bytes > 0 && busyMs > 0)) return
    const seen = this.#links.seen(fromDeviceId, toDeviceId)
    this.#links.set(fromDeviceId, toDeviceId, blend(seen, (bytes / busyMs) * 1000))
  }

  #learn(device: DeviceFacts, model: ModelFacts, role: Role, idealMs: number, measuredMs: number): void {
    if (!(measuredMs > 0)) return
    const seen = Math.min(EFFICIENCY_MAX, Math.max(EFFICIENCY_MIN, idealMs / measuredMs))
    const profiles = this.#learned.get(model.digest) ?? { exact: nothingLearned(), paper: nothingLearned() }
    this.#learned.set(model.digest, profiles)
    const learned = profiles[model.profile][role]
    learned.own.set(device.deviceId, withRecord(learned.own.get(device.deviceId), seen))
    learned.any = withRecord(learned.any, seen)
  }
}

function nothingLearned(): Record<Role, Learned> {
  return {
    prefill: { any: undefined, own: new Map() },
    decode: { any: undefined, own: new Map() },
  }
}

function withRecord(old: Efficiency | undefined, seen: number): Efficiency {
  return { value: blend(old?.value, seen), records: (old?.records ?? 0) + 1 }
}

function blend(old: number | undefined, seen: number): number {
  return old === undefined ? seen : old + RECORD_WEIGHT * (seen - old)
}

/** Values in a token's key, over all layers. Grouped queries are not advertised, so there are at least as many in a query. */
export function keyWidth({ kvBytesPerToken, profile }: ModelFacts): number {
  const valueBytes = profile === 'exact' ? 4 : 1
  return kvBytesPerToken / (2 * valueBytes)
}

/** Rates that may be used: the exact profile computes in f32; the paper's takes the fastest that the device has. */
export function prefillOpsPerSecond({ compute }: DeviceFacts, model: ModelFacts): number {
  return peakOps(model.compute.length > 0 ? model.compute : compute, model.profile === 'paper')
}

export function stepOpsPerSecond({ compute }: DeviceFacts, { profile }: ModelFacts): number {
  return peakOps(compute, profile === 'paper')
}

/** At the roofline; numbers as in device-table.ts. */
export function prefillIdealMs(
  opsPerSecond: number,
  bytesPerSecond: number,
  parameters: number,
  weightBytes: number,
  poolBytesPerToken: number,
  width: number,
  tokens: number,
  contextTokens: number,
  tokensAhead: number,
): number {
  const all = tokensAhead + tokens
  // Scores and weighted sums under the causal mask: within this prompt, and within others of its length (CostModel.prefillMs).
  const within = tokens * tokens + tokensAhead * Math.min(tokensAhead, tokens + contextTokens)
  const operations = 2 * parameters * all + 2 * within * width + 4 * tokens * contextTokens * width
  const readBytes = weightBytes + (all + contextTokens) * poolBytesPerToken
  return Math.max(rooflineMs(opsPerSecond, bytesPerSecond, operations, readBytes), STEP_MS_MIN)
}

export function stepIdealMs(
  opsPerSecond: number,
  bytesPerSecond: number,
  parameters: number,
  weightBytes: number,
  poolBytesPerToken: number,
  batch: number,
  contextTokens: number,
): number {
  const readBytes = weightBytes + batch * contextTokens * poolBytesPerToken
  return Math.max(rooflineMs(opsPerSecond, bytesPerSecond, 2 * parameters * batch, readBytes), STEP_MS_MIN)
}

function prefillIdealOn(
  device: DeviceFacts,
  model: ModelFacts,
  tokens: number,
  contextTokens: number,
  tokensAhead = 0,
): number {
  const { parameters, weightBytes, poolBytesPerToken } = model
  return prefillIdealMs(
    prefillOpsPerSecond(device, model),
    peakBytes(device.tiers),
    parameters,
    weightBytes,
    poolBytesPerToken,
    keyWidth(model),
    tokens,
    contextTokens,
    tokensAhead,
  )
}

function stepIdealOn(device: DeviceFacts, model: ModelFacts, batch: number, contextTokens: number): number {
  const { parameters, weightBytes, poolBytesPerToken } = model
  return stepIdealMs(
    stepOpsPerSecond(device, model),
    peakBytes(device.tiers),
    parameters,
    weightBytes,
    poolBytesPerToken,
    batch,
    contextTokens,
  )
}
