/**
 * The machines that GLITCHES (HPEC'24) compares, as plans of a cluster: 1 GPU and 7 U280, 8 GPUs, 8 U280, all with
 * Llama-2-7B and one sequence at a time on a device.
 */
import { deviceModel } from '@kvasir/catalogue/device-model'
import { type DeviceModel, deviceTimes } from '@kvasir/catalogue/device-times'
import type { Catalogue, LinkSpec } from '@kvasir/catalogue/specs'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { CapabilityName, ClusterPlan, PlannedDevice } from '../cluster/cluster-plan.js'
import {
  FIT_TOKENS,
  FITTED_DECODE_MS,
  type GpuId,
  PAPER_MODEL,
  WIRE_BYTES_PER_TOKEN,
} from './glitches-paper.js'

export type SystemName = 'mixed' | 'gpu-only' | 'fpga-only'

export interface SystemOptions {
  readonly gpu: GpuId
  /** Whether the GPU decodes in the time of the fitted constant, or in that of the paper's table. */
  readonly fitted: boolean
  /** Loads that the FPGA merges into one: 1 or 4, which the paper has figures of. */
  readonly mergedLoads: 1 | 4
  /** Layers whose KV is sent together. */
  readonly mergeLayers: number
}

const DEVICES = 8
/** More than a prompt of the paper has: prompts run whole, as in its baseline. */
const PROMPT_TOKENS_MAX = 4_096
/** Between two processes of one host. */
const MESSAGE_MS = 0.05
const LINK = 'pcie3-x16-through-host'

/** The GPU of a system. Fitted: decoding of a token takes the fitted time where a sequence has `FIT_TOKENS` tokens. */
export function gpuModel(catalogue: Catalogue, { gpu, fitted }: SystemOptions): DeviceModel {
  const model = deviceModel(catalogue, { device: gpu, model: PAPER_MODEL, preset: 'glitches' })
  if (!fitted) return model
  const tableMs = deviceTimes(model).stepMs({ prefills: [], decodes: [FIT_TOKENS] })
  const decodeBandwidth = model.use.decodeBandwidth * (tableMs / FITTED_DECODE_MS[gpu])
  return { ...model, use: { ...model.use, decodeBandwidth } }
}

export function fpgaModel(catalogue: Catalogue, { mergedLoads }: SystemOptions): DeviceModel {
  const preset = mergedLoads === 4 ? 'glitches-prefetch' : 'glitches'
  return deviceModel(catalogue, { device: 'u280', model: PAPER_MODEL, preset })
}

/** Dollars of a system's cards. */
export function systemDollars(catalogue: Catalogue, system: SystemName, gpu: GpuId): number {
  const [gpuDollars, fpgaDollars] = [gpu, 'u280'].map(
    (id) => catalogue.devices.get(id)?.dollars ?? Number.NaN,
  )
  const gpus = system === 'mixed' ? 1 : system === 'gpu-only' ? DEVICES : 0
  return gpus * (gpuDollars ?? Number.NaN) + (DEVICES - gpus) * (fpgaDollars ?? Number.NaN)
}

export function systemPlan(catalogue: Catalogue, system: SystemName, options: SystemOptions): ClusterPlan {
  const link = catalogue.links.get(LINK)
  const network = catalogue.links.get('100gbe')
  const model = catalogue.models.get(PAPER_MODEL)
  if (!link || !network || !model) {
    throw new InvalidInputError(
      `The catalogue lacks ${LINK}, 100gbe or ${PAPER_MODEL}; this study needs all three.`,
    )
  }
  const gpus = system === 'mixed' ? 1 : system === 'gpu-only' ? DEVICES : 0
  const devices = Array.from({ length: DEVICES }, (_, index) => {
    const isGpu = index < gpus
    const capabilities: CapabilityName[] = isGpu
      ? ['prefill', 'decode']
      : system === 'mixed'
        ? ['decode']
        : ['decode', 'prefill']
    const on = isGpu ? gpuModel(catalogue, options) : fpgaModel(catalogue, options)
    // With a second slot the KV of the next sequence arrives while one decodes.
    const decodeSlots = system === 'mixed' && !isGpu ? 2 : 1
    return planned(isGpu ? `gpu-${index}` : `fpga-${index - gpus}`, on, capabilities, decodeSlots, link)
  })
  return {
    name: `${system} ${options.gpu}`,
    model,
    preset: 'glitches',
    profile: 'paper',
    blockTokens: 16,
    wireBytesPerToken: WIRE_BYTES_PER_TOKEN,
    mergeLayers: options.mergeLayers,
    messageMs: MESSAGE_MS,
    machines: [{ id: 'host', devices, hostTiers: [], hostIdleWatts: 0, hostDollars: 0, network }],
  }
}

function planned(
  deviceId: string,
  model: DeviceModel,
  capabilities: readonly CapabilityName[],
  decodeSlots: number,
  link: LinkSpec,
): PlannedDevice {
  return {
    deviceId,
    model,
    capabilities,
    decodeSlots,
    decodesAtOnce: 1,
    chunkTokens: PROMPT_TOKENS_MAX,
    sharedChunkTokens: PROMPT_TOKENS_MAX,
    // A prompt that FPGAs wait for comes before what the GPU decodes itself.
    sharedStepStretch: Number.POSITIVE_INFINITY,
    tierPolicy: 'static',
    link,
  }
}
