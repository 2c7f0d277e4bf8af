/**
 * Attention while decoding as a pipeline of four stages: page bounds, page scores, top-k, attention over
 * the chosen pages. All figures are means of one decode step over all layers: what happens once, such as
 * bringing the prompt's pages to the device that attends, is spread over the steps that are expected.
 *
 * What can run where: bounds are prepared by the device that prefills; scores and top-k are one call, on
 * the decoding device or on one that attends; the attention itself runs on the decoding device, or where
 * the pages were chosen.
 */
import { type AttentionPlace, PAGE_TOKENS } from './attention-plan.js'
import type { AttentionMethodName } from './attention-wish.js'
import type { CompletionRecord } from './completion-record.js'
import { type CostModel, keyWidth } from './cost-model.js'
import { type DeviceFacts, type ModelFacts, modelOn } from './facts.js'
import type { Work } from './roofline.js'
import type { StageCosts } from './stage-costs.js'
import type { Pipeline, Stage, StagePlan } from './stage-plan.js'
import { planStages } from './stage-plan.js'

export interface AttentionShape {
  readonly method: AttentionMethodName
  /** Pages of the sequence, those attended to, and the full ones of the prompt. */
  readonly pages: number
  readonly pagesRead: number
  readonly promptPages: number
}

export interface AttentionSite {
  readonly model: ModelFacts
  readonly prefill: DeviceFacts
  readonly decode: DeviceFacts
  /** Decode steps that are expected, at least 1. */
  readonly steps: number
  readonly costs: CostModel
  readonly stageCosts: StageCosts
}

/** Kernels whose measured times StageCosts.observe takes, with the work of `layerWork`. */
export const ATTENTION_KERNELS = {
  prepare: 'page-bounds',
  relevancy: 'page-scores',
  retrieval: 'top-k',
  apply: 'partial-attention',
} as const

const F32_BYTES = 4
/** Heads are not advertised: most models have heads of so many values. */
const HEAD_DIM_GUESS = 64
export const PAGE_NUMBER_BYTES = 4

/** The work of each stage in one layer and step; of `prepare` that of one page. */
export function layerWork(model: ModelFacts, pages: number, pagesRead: number): Record<Stage['name'], Work> {
  const { width, heads, poolTokenBytes } = layerShape(model)
  const keyBytes = poolTokenBytes / 2
  return {
    prepare: { operations: 2 * PAGE_TOKENS * width, readBytes: PAGE_TOKENS * keyBytes },
    // Two products, the larger of them, a sum; the bounds of a page are two keys.
    relevancy: { operations: 4 * pages * width, readBytes: 2 * pages * keyBytes },
    retrieval: { operations: 8 * pages * heads, readBytes: F32_BYTES * pages * heads },
    apply: {
      operations: 4 * pagesRead * PAGE_TOKENS * width,
      readBytes: pagesRead * PAGE_TOKENS * poolTokenBytes,
    },
  }
}

/**
 * The best stages among the places given: `local`, and the remote ones on each of the devices that attend.
 * Undefined where no place can be had with them.
 */
export function planAttention(
  shape: AttentionShape,
  site: AttentionSite,
  places: readonly AttentionPlace[],
  attendants: readonly DeviceFacts[],
):
  | { readonly place: AttentionPlace; readonly attend: DeviceFacts | null; readonly plan: StagePlan }
  | undefined {
  // Who wants indices of dense attention gets those of all pages.
  const isScored = shape.method === 'page-bounds' || places.every((place) => place === 'indices')
  const remotes = attendants.filter(({ deviceId }) => deviceId !== site.decode.deviceId)
  const isLocal = places.includes('local')
  const appliers = [
    ...(isLocal || places.includes('indices') ? [site.decode] : []),
    ...(places.includes('partial') ? remotes : []),
  ]
  const choosers = [
    ...(isLocal ? [site.decode] : []),
    ...(places.includes('partial') || places.includes('indices') ? remotes : []),
  ]
  if (appliers.length === 0 || (isScored && choosers.length === 0)) return undefined
  const stages = isScored
    ? scoredStages(shape, site, choosers, appliers, places)
    : [applyStage(shape, site, appliers)]
  const plan = planStages({ stages, resultAt: site.decode.deviceId, transferMs: transfers(site, attendants) })
  const deviceOf = (name: Stage['name']): DeviceFacts => {
    const deviceId = plan.stages.find(({ stage }) => stage === name)?.devices[0]
    return remotes.find((device) => device.deviceId === deviceId) ?? site.decode
  }
  const applies = deviceOf('apply')
  const chooses = isScored ? deviceOf('relevancy') : applies
  if (chooses === site.decode) return { place: 'local', attend: null, plan }
  return { place: applies === site.decode ? 'indices' : 'partial', attend: chooses, plan }
}

/** Tokens of each sequence of a batch, all of them at their longest, when one sequence's own are not counted. */
export function othersTokens(tokensMax: number, batch: number): number {
  return (tokensMax * (batch - 1)) / batch
}

/** Learns from a finished request. `facts` finds a device that is still known. */
export function observeAttention(
  { attention, modelDigest, profile }: CompletionRecord,
  facts: (deviceId: string) => DeviceFacts | undefined,
  stageCosts: StageCosts,
): void {
  if (!attention) return
  const observe = (deviceId: string | undefined, name: Stage['name'], measuredMs: number): void => {
    const device = deviceId === undefined ? undefined : facts(deviceId)
    const model = device && modelOn(device, modelDigest, profile)
    if (!device || !model) return
    const work = layerWork(model, attention.pages, attention.pagesRead)[name]
    stageCosts.observe(device, ATTENTION_KERNELS[name], work, measuredMs)
  }
  observe(attention.chooserDeviceId, 'relevancy', attention.relevancyMs)
  observe(attention.chooserDeviceId, 'retrieval', attention.retrievalMs)
  observe(attention.applierDeviceId, 'apply', attention.applyMs)
}

function scoredStages(
  shape: AttentionShape,
  site: AttentionSite,
  choosers: readonly DeviceFacts[],
  appliers: readonly DeviceFacts[],
  places: readonly AttentionPlace[],
): Stage[] {
  const { model, prefill, decode } = site
  const { heads, tokenBytes } = layerShape(model)
  const work = layerWork(model, shape.pages, shape.pagesRead)
  const times = (factor: number, { operations, readBytes }: Work): Work => ({
    operations: operations * factor,
    readBytes: readBytes * factor,
  })
  const prepareWork = times(shape.promptPages, work.prepare)
  const onEach = (devices: readonly DeviceFacts[], name: Stage['name'], ofLayer: Work) =>
    devices.map((device) => ({ devices: [device.deviceId], computeMs: stageMs(site, device, name, ofLayer) }))
  return [
    {
      name: 'prepare',
      what: 'page bounds, spread over the steps',
      options: [
        {
          devices: [prefill.deviceId],
          computeMs: stageMs(site, prefill, 'prepare', prepareWork) / site.steps,
        },
      ],
      inputs: [],
      // They go with the KV, whose way to the decoding device is counted where that device is chosen.
      outputBytes: 0,
    },
    {
      name: 'relevancy',
      what: 'page scores',
      options: onEach(choosers, 'relevancy', work.relevancy),
      inputs: [
        { device: decode.deviceId, bytes: queryBytes(model) },
        // Two keys a page are the bytes of one token's KV.
        {
          device: decode.deviceId,
          bytes: uploadBytes(model, site.steps, shape.promptPages * tokenBytes),
          isBulk: true,
        },
      ],
      outputBytes: F32_BYTES * model.layers * shape.pages * heads,
    },
    {
      name: 'retrieval',
      what: 'top-k pages',
      options: onEach(choosers, 'retrieval', work.retrieval),
      inputs: [],
      outputBytes: PAGE_NUMBER_BYTES * model.layers * shape.pagesRead * heads,
      isJoined: true,
    },
    {
      ...applyStage(shape, site, appliers),
      // The query is there already.
      inputs: pagesUpload(site, shape),
      canFollow: (chooser, applier) => {
        const [chooses, applies] = [choosers[chooser], appliers[applier]]
        if (chooses === decode) return applies === decode
        return applies === decode ? places.includes('indices') : applies === chooses
      },
    },
  ]
}

function applyStage(shape: AttentionShape, site: AttentionSite, appliers: readonly DeviceFacts[]): Stage {
  const work = layerWork(site.model, shape.pages, shape.pagesRead).apply
  return {
    name: 'apply',
    what: shape.method === 'dense' ? 'attention over all pages' : 'attention over the chosen pages',
    options: appliers.map((device) => ({
      devices: [device.deviceId],
      computeMs: stageMs(site, device, 'apply', work),
    })),
    inputs: [{ device: site.decode.deviceId, bytes: queryBytes(site.model) }, ...pagesUpload(site, shape)],
    // The output is as wide as the query; maximum and sum are two values a head.
    outputBytes: queryBytes(site.model),
  }
}

function pagesUpload(site: AttentionSite, shape: AttentionShape) {
  const bytes = shape.promptPages * PAGE_TOKENS * layerShape(site.model).tokenBytes
  return [{ device: site.decode.deviceId, bytes: uploadBytes(site.model, site.steps, bytes), isBulk: true }]
}

export function uploadBytes({ layers }: ModelFacts, steps: number, layerBytes: number): number {
  return (layerBytes * layers) / steps
}

function transfers(site: AttentionSite, attendants: readonly DeviceFacts[]): Pipeline['transferMs'] {
  const { model, prefill, decode, costs, steps } = site
  const devices = new Map([prefill, decode, ...attendants].map((device) => [device.deviceId, device]))
  return (from, to, bytes, isBulk) => {
    const [source, target] = [devices.get(from), devices.get(to)]
    if (!source || !target) return 0
    if (isBulk) return costs.transferMs(source, target, bytes * steps) / steps
    // Every layer waits for its own answer.
    return model.layers * costs.transferMs(source, target, bytes / model.layers)
  }
}

/** Over all layers; a device that no such stage has run on is as good at it as at decoding. */
function stageMs(site: AttentionSite, device: DeviceFacts, name: Stage['name'], layer: Work): number {
  const guess = site.costs.efficiency(device, site.model, 'decode')
  return site.model.layers * site.stageCosts.stageMs(device, ATTENTION_KERNELS[name], layer, guess)
}

/** At least: grouped queries are not advertised. */
export function queryBytes(model: ModelFacts): number {
  return F32_BYTES * layerShape(model).width * model.layers
}

/** Of one layer: values in a token's key, its KV heads, and the bytes of its key and value on their way and in memory. */
export function layerShape(model: ModelFacts) {
  const layers = Math.max(1, model.layers)
  const width = keyWidth(model) / layers
  return {
    width,
    heads: Math.max(1, Math.round(width / HEAD_DIM_GUESS)),
    tokenBytes: model.kvBytesPerToken / layers,
    poolTokenBytes: model.poolBytesPerToken / layers,
  }
}
