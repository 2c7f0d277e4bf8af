/**
 * How long a catalogued device takes: a roofline with published utilisations,
 * `t = max(operations / (peak · utilisation), bytes / (bandwidth · utilisation))`, in the form of the analytical model of
 * GLITCHES (HPEC'24): prefill of n tokens is 2·P·n + 4·n²·d·L operations and takes at least one decode step; a decode
 * step reads the weights once and each sequence's KV.
 *
 * T1 Pure: the same rows give the same time. T2 Chunks of a prompt together count as many operations as the whole.
 */
import type { DeviceSpec, DeviceUse, ModelSpec } from './specs.js'

/** A model on a device under a preset: all that its times, its memory and its advertisement follow from. */
export interface DeviceModel {
  readonly device: DeviceSpec
  readonly model: ModelSpec
  readonly use: DeviceUse
  /** Weights in memory, and those that a step of one token reads. */
  readonly weightBytes: number
  readonly stepWeightBytes: number
  /** Where the weights lie: one of the device's memories. */
  readonly weightMemory: { readonly name: string; readonly bytesPerSecond: number }
  /** KV of a token over all layers, in the device's memory. */
  readonly kvBytesPerToken: number
  /** Memory that is left for KV, nearest first; the weights lie in the nearest that has room for them. */
  readonly kvMemories: readonly {
    readonly name: string
    readonly bytes: number
    readonly bytesPerSecond: number
  }[]
}

/** What one device step computes. */
export interface StepWork {
  /** Chunks of prompts: `count` tokens after `start` whose KV is there. */
  readonly prefills: readonly { readonly start: number; readonly count: number }[]
  /** Tokens in each sequence that decodes one token. */
  readonly decodes: readonly number[]
  /**
   * Bytes of KV that decoding reads from each of `kvMemories`, and of blocks that were moved between them before the step;
   * undefined: all of what is decoded from the nearest.
   */
  readonly kvReadBytes?: readonly number[]
}

export interface DeviceTimes {
  /** Milliseconds of one step. */
  stepMs(work: StepWork): number
  /** Power during it, watts; undefined where the catalogue does not know the device's. */
  stepWatts(work: StepWork): number | undefined
}

/** `model` is read once: times of a changed model need a new call. */
export function deviceTimes(model: DeviceModel): DeviceTimes {
  const { device, use, model: shape } = model
  const peak = device.compute[use.computePrecision] ?? 0
  const opsPerMs = (peak * use.prefillCompute) / 1e3
  const bytesPerMs = (bytesPerSecond: number) => (bytesPerSecond * use.decodeBandwidth) / 1e3
  const kvBytesPerMs = model.kvMemories.map((memory) => bytesPerMs(memory.bytesPerSecond))
  const weightBytesPerMs = bytesPerMs(model.weightMemory.bytesPerSecond)
  const weightTier = model.kvMemories.findIndex(({ name }) => name === model.weightMemory.name)

  // The table of embeddings is looked up; of a prompt only the last token goes through the last product.
  const stepParameters = shape.activeParameters - shape.embeddingParameters
  const promptParameters = stepParameters - shape.vocabulary * shape.hidden
  const attentionOps = 4 * shape.heads * shape.headDim * shape.layers
  const weightBytesOf = weightBytesByTokens(model)

  const prefillOps = ({ prefills }: StepWork) =>
    prefills.reduce((ops, { start, count }) => {
      const end = start + count
      return ops + 2 * promptParameters * count + attentionOps * (end * end - start * start)
    }, 0)
  const decodeOps = ({ decodes }: StepWork) =>
    decodes.reduce((ops, context) => ops + 2 * stepParameters + attentionOps * context, 0)

  /** Memories are read side by side. */
  const readMs = (tokens: number, kvBytes: (tier: number) => number) => {
    const weightMs = weightBytesOf(tokens) / weightBytesPerMs
    let longestMs = weightTier < 0 ? weightMs : 0
    kvBytesPerMs.forEach((rate, tier) => {
      longestMs = Math.max(longestMs, kvBytes(tier) / rate + (tier === weightTier ? weightMs : 0))
    })
    return longestMs
  }
  const prefillKv = ({ prefills }: StepWork) =>
    prefills.reduce((tokens, { start, count }) => tokens + start + count, 0) * model.kvBytesPerToken
  const decodeKv = ({ decodes, kvReadBytes }: StepWork) => {
    const all = decodes.reduce((tokens, context) => tokens + context, 0) * model.kvBytesPerToken
    return (tier: number) => (kvReadBytes ? (kvReadBytes[tier] ?? 0) : tier === 0 ? all : 0)
  }
  const prefillTokens = ({ prefills }: StepWork) => prefills.reduce((tokens, { count }) => tokens + count, 0)

  const prefillMs = (work: StepWork) => {
    if (work.prefills.length === 0) return 0
    const kv = prefillKv(work)
    // Where a step decodes too, that pays for what was moved.
    const moved = work.decodes.length === 0 ? work.kvReadBytes : undefined
    return Math.max(
      prefillOps(work) / opsPerMs,
      readMs(prefillTokens(work), (tier) => (moved?.[tier] ?? 0) + (tier === 0 ? kv : 0)),
    )
  }
  const decodeMs = (work: StepWork) => {
    if (work.decodes.length === 0) return 0
    const ms = Math.max(decodeOps(work) / opsPerMs, readMs(work.decodes.length, decodeKv(work)))
    return ms / speedup(use.decodeSpeedups, work.decodes)
  }
  const fusedMs = (work: StepWork) => {
    const prompts = prefillKv(work)
    const decodes = decodeKv(work)
    return Math.max(
      (prefillOps(work) + decodeOps(work)) / opsPerMs,
      readMs(prefillTokens(work) + work.decodes.length, (tier) => decodes(tier) + (tier === 0 ? prompts : 0)),
    )
  }

  return {
    stepMs(work) {
      if (work.prefills.length === 0) return decodeMs(work)
      if (work.decodes.length === 0) return prefillMs(work)
      return use.fusesSteps ? fusedMs(work) : prefillMs(work) + decodeMs(work)
    },
    stepWatts(work) {
      const prefillWatts = use.prefillWatts ?? device.maxWatts
      const decodeWatts = use.decodeWatts ?? device.maxWatts
      if (work.prefills.length + work.decodes.length === 0) return device.idleWatts
      if (prefillWatts === undefined || decodeWatts === undefined) return undefined
      if (work.prefills.length === 0) return decodeWatts
      if (work.decodes.length === 0) return prefillWatts
      const [prefill, decode] = [prefillMs(work), decodeMs(work)]
      return (prefill * prefillWatts + decode * decodeWatts) / (prefill + decode)
    },
  }
}

/**
 * Weights that a step of so many tokens reads. In a mixture of experts each token chooses `activeExperts` of them, taken
 * as evenly spread, so that t tokens touch a share 1 - (1 - active/all)^t.
 */
function weightBytesByTokens({ model, use, stepWeightBytes }: DeviceModel): (tokens: number) => number {
  const { experts, activeExperts, parameters, activeParameters, embeddingParameters } = model
  if (experts === undefined || activeExperts === undefined || activeExperts === experts) {
    return () => stepWeightBytes
  }
  const share = activeExperts / experts
  const everyTokens = (activeParameters - parameters * share) / (1 - share)
  const expertBytes = ((parameters - everyTokens) * use.weightBits) / 8
  const commonBytes = ((everyTokens - embeddingParameters) * use.weightBits) / 8
  return (tokens) => commonBytes + expertBytes * (1 - (1 - share) ** Math.max(1, tokens))
}

/** Of a step of sequences with these contexts: that of their mean. */
function speedup(points: DeviceUse['decodeSpeedups'], contexts: readonly number[]): number {
  const first = points?.[0]
  if (points === undefined || first === undefined) return 1
  const context = contexts.reduce((sum, tokens) => sum + tokens, 0) / contexts.length
  let before = first
  for (const point of points) {
    if (context <= point.contextTokens) {
      const width = point.contextTokens - before.contextTokens
      const along = width === 0 ? 0 : Math.max(0, context - before.contextTokens) / width
      return before.factor + along * (point.factor - before.factor)
    }
    before = point
  }
  return before.factor
}
