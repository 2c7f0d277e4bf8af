/** Clusters of any size for `study scale`: machines with two A100 and six U280 each, serving one model. */
import { deviceModel } from '@kvasir/catalogue/device-model'
import { deviceTimes } from '@kvasir/catalogue/device-times'
import type { Catalogue } from '@kvasir/catalogue/specs'
import { wireBytesPerToken } from '@kvasir/catalogue/wire-bytes'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { ClusterPlan, PlannedDevice } from '../cluster/cluster-plan.js'
import { azureLikeRequests } from './scale-workload.js'

const MODEL = 'llama-3.1-8b'
const PRESET = 'vllm'
const MACHINE_DEVICES = 8
const MACHINE_GPUS = 2
const GPU = { device: 'a100-80-pcie', link: 'pcie4-x16', decodeSlots: 64 }
const FPGA = { device: 'u280', link: 'pcie3-x16', decodeSlots: 2 }
const NETWORK = '100gbe'
const BLOCK_TOKENS = 16

export function scalePlan(catalogue: Catalogue, devices: number): ClusterPlan {
  const model = found(catalogue.models, MODEL)
  const planned = (index: number): PlannedDevice => {
    const isGpu = index % MACHINE_DEVICES < MACHINE_GPUS
    const { device, link, decodeSlots } = isGpu ? GPU : FPGA
    const on = deviceModel(catalogue, { device, model: MODEL, preset: PRESET })
    return {
      deviceId: `${isGpu ? 'gpu' : 'fpga'}-${index}`,
      // What is in the farther memory costs a walk over all pages of each step; this study is about numbers of devices.
      model: { ...on, kvMemories: on.kvMemories.slice(0, 1) },
      capabilities: isGpu ? ['prefill', 'decode'] : ['decode', 'prefill'],
      decodeSlots,
      decodesAtOnce: isGpu ? decodeSlots : 1,
      chunkTokens: 8_192,
      sharedChunkTokens: 2_048,
      tierPolicy: 'static',
      link: found(catalogue.links, link),
    }
  }
  const machines = Math.ceil(devices / MACHINE_DEVICES)
  return {
    name: `${devices} devices`,
    model,
    preset: PRESET,
    profile: 'paper',
    blockTokens: BLOCK_TOKENS,
    wireBytesPerToken: wireBytesPerToken(model, 'paper'),
    mergeLayers: 2,
    messageMs: 0.1,
    machines: Array.from({ length: machines }, (_, machine) => ({
      id: `machine-${machine}`,
      devices: Array.from(
        { length: Math.min(MACHINE_DEVICES, devices - machine * MACHINE_DEVICES) },
        (_unused, index) => planned(machine * MACHINE_DEVICES + index),
      ),
      hostTiers: [],
      hostIdleWatts: 0,
      hostDollars: 0,
      network: found(catalogue.links, NETWORK),
    })),
  }
}

/** Requests a second whose prompts the GPUs of such a cluster could prefill, were there nothing else to do. */
export function prefillsPerS(catalogue: Catalogue, seed: number, devices: number): number {
  const prompts = [...azureLikeRequests({ seed, requests: 2_000, ratePerS: 1 })]
  const gpus = scalePlan(catalogue, devices).machines.flatMap((machine) =>
    machine.devices.filter(({ capabilities }) => capabilities[0] === 'prefill'),
  )
  const [gpu] = gpus
  if (gpu === undefined) return Number.NaN
  const times = deviceTimes(gpu.model)
  const sumMs = prompts.reduce((sum, { promptTokens }) => {
    return sum + times.stepMs({ prefills: [{ start: 0, count: promptTokens }], decodes: [] })
  }, 0)
  return (gpus.length * prompts.length * 1_000) / sumMs
}

function found<T>(entries: ReadonlyMap<string, T>, id: string): T {
  const entry = entries.get(id)
  if (entry === undefined) throw new InvalidInputError(`The catalogue has no ${id}, which study scale needs.`)
  return entry
}
