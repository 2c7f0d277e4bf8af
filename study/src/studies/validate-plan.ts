/**
 * What `kvasir study validate` plays twice, live and in virtual time: a small cluster of catalogued devices, requests at
 * given times, a shaped link that transfers share, and one device that is lost half-way and comes back. Pure: a plan follows from its
 * wish.
 */
import { deviceModel } from '@kvasir/catalogue/device-model'
import type { DeviceModel } from '@kvasir/catalogue/device-times'
import type { Catalogue, LinkSpec } from '@kvasir/catalogue/specs'
import { wireBytesPerToken } from '@kvasir/catalogue/wire-bytes'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64'
import { uniformInt } from 'pure-rand/distribution/uniformInt'
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus'
import type { CapabilityName, ClusterPlan, PlannedDevice } from '../cluster/cluster-plan.js'
import type { VirtualRequest } from '../cluster/request.js'
import { VirtualCluster } from '../cluster/virtual-cluster.js'

export const VALIDATED = { gpu: 'v100s', fpga: 'u280', model: 'llama-2-13b', preset: 'glitches' } as const
export const FPGAS = 3
/** Of the GPU, in bytes of the catalogued model: KV of a prompt takes longer than its prefill, so transfers meet on it. */
export const LINK_BYTES_PER_SECOND = 1.5e9
const PROMPT_TOKENS = { least: 64, most: 512 } as const
const OUTPUT_TOKENS = { least: 24, most: 96 } as const
/** Before the first request, one after the other: whatever learns while it serves has then learned the same. */
export const WARM_UP = { requests: 12, promptTokens: 512, outputTokens: 8 } as const
/** Requests at once, by which the sustainable rate is found, and the share of them at either end that is left out. */
const SATURATING_REQUESTS = 240
const EDGE_SHARE = 0.15

export interface ValidateWish {
  readonly requests: number
  /** Share of the sustainable rate. */
  readonly load: number
  readonly seed: number
  /** Layers of the live model, and of those the ones whose KV is sent together. */
  readonly liveLayers: number
  readonly liveMergeLayers: number
}

export interface ValidatePlan {
  readonly cluster: ClusterPlan
  readonly requests: readonly VirtualRequest[]
  readonly sustainablePerS: number
  readonly ratePerS: number
  readonly lostDevice: string
  readonly lossAtMs: number
}

/** @param messageMs between two processes, as it was measured live */
export function validatePlan(catalogue: Catalogue, wish: ValidateWish, messageMs: number): ValidatePlan {
  const cluster = clusterPlan(catalogue, wish, messageMs)
  const sustainablePerS = sustainableRate(cluster, wish.seed)
  const ratePerS = wish.load * sustainablePerS
  const requests = requestsOf(wish.requests, ratePerS, wish.seed)
  const lossAtMs = (requests.at(-1)?.arrivalMs ?? 0) / 2
  return { cluster, requests, sustainablePerS, ratePerS, lostDevice: `fpga-${FPGAS - 1}`, lossAtMs }
}

function clusterPlan(catalogue: Catalogue, wish: ValidateWish, messageMs: number): ClusterPlan {
  const { gpu, fpga, model: modelId, preset } = VALIDATED
  const network = catalogue.links.get('100gbe')
  const model = catalogue.models.get(modelId)
  if (!network || !model) {
    throw new InvalidInputError(`The catalogue lacks 100gbe or ${modelId}; this study needs both.`)
  }
  const on = (device: string) => oneMemory(deviceModel(catalogue, { device, model: modelId, preset }))
  const fast = catalogue.links.get(on(fpga).device.link)
  const shaped = catalogue.links.get(on(gpu).device.link)
  if (!fast || !shaped) throw new InvalidInputError('The catalogue lacks the link of a device of this study.')
  const gpuLink = { ...shaped, bytesPerSecond: LINK_BYTES_PER_SECOND }
  return {
    name: `1 ${gpu} and ${FPGAS} ${fpga} with ${modelId}`,
    model,
    preset,
    profile: 'exact',
    blockTokens: 16,
    wireBytesPerToken: wireBytesPerToken(model, 'exact'),
    // So many groups of layers a chunk as the live model has.
    mergeLayers: model.layers / Math.ceil(wish.liveLayers / wish.liveMergeLayers),
    messageMs,
    machines: [
      {
        id: 'machine',
        devices: [
          planned('gpu-0', on(gpu), ['prefill', 'decode'], gpuLink),
          ...Array.from({ length: FPGAS }, (_, index) =>
            planned(`fpga-${index}`, on(fpga), ['decode', 'prefill'], fast),
          ),
        ],
        hostTiers: [],
        hostIdleWatts: 0,
        hostDollars: 0,
        network,
      },
    ],
  }
}

/** KV in the nearest memory alone, so that a token's time does not hang on where pages happen to lie. */
function oneMemory(model: DeviceModel): DeviceModel {
  return { ...model, kvMemories: model.kvMemories.slice(0, 1) }
}

function planned(
  deviceId: string,
  model: DeviceModel,
  capabilities: readonly CapabilityName[],
  link: LinkSpec,
): PlannedDevice {
  return {
    ...{ deviceId, model, capabilities, link },
    decodeSlots: model.use.decodesAtOnce,
    decodesAtOnce: model.use.decodesAtOnce,
    // As an agent has them.
    chunkTokens: 256,
    sharedChunkTokens: 64,
    tierPolicy: 'balanced',
  }
}

/** Poisson arrivals; lengths evenly spread. Nothing is reused: every prompt is another. */
function requestsOf(count: number, ratePerS: number, seed: number): VirtualRequest[] {
  const random = xoroshiro128plus(seed)
  const between = ({ least, most }: { readonly least: number; readonly most: number }) =>
    uniformInt(random, least, most)
  let arrivalMs = 0
  return Array.from({ length: count }, (_, index) => {
    const share = 1 - uniformFloat64(random)
    if (index > 0 && Number.isFinite(ratePerS)) arrivalMs += (-Math.log(share) / ratePerS) * 1_000
    return {
      requestId: `request-${index}`,
      arrivalMs,
      promptTokens: between(PROMPT_TOKENS),
      outputTokens: between(OUTPUT_TOKENS),
      blocks: [],
    }
  })
}

/** Requests that a cluster ends a second while it always has more. */
function sustainableRate(cluster: ClusterPlan, seed: number): number {
  const endsMs: number[] = []
  const limits = {
    queuedMax: SATURATING_REQUESTS,
    placementDeadlineMs: 3_600_000,
    requestDeadlineMs: 3_600_000,
  }
  const virtual = new VirtualCluster(cluster, { seed, limits, onOutcome: ({ endMs }) => endsMs.push(endMs) })
  virtual.run(requestsOf(SATURATING_REQUESTS, Number.POSITIVE_INFINITY, seed))
  endsMs.sort((a, b) => a - b)
  const edge = Math.floor(endsMs.length * EDGE_SHARE)
  const [first = Number.NaN, last = Number.NaN] = [endsMs[edge], endsMs.at(-1 - edge)]
  return ((endsMs.length - 1 - 2 * edge) / (last - first)) * 1_000
}
