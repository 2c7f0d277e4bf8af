/** Small clusters of catalogued devices for tests. */
import { deviceModel } from '@kvasir/catalogue/device-model'
import { builtinCatalogue } from '@kvasir/catalogue/load-catalogue'
import { InternalError } from '@kvasir/runtime/errors'
import type { ClusterPlan, PlannedDevice } from '../cluster/cluster-plan.js'

export interface TestPlan {
  readonly gpus?: number
  readonly fpgas?: number
  /** KV of each device holds so many tokens; undefined: as many as its memory. */
  readonly kvTokens?: number
  readonly hostTokens?: number
  readonly blockTokens?: number
  readonly fpgaSlots?: number
  readonly gpuSlots?: number
  readonly machines?: number
  readonly tierPolicy?: PlannedDevice['tierPolicy']
}

/** GPUs that prefill and FPGAs that decode, of GLITCHES' kind. */
export function testPlan(wish: TestPlan = {}): ClusterPlan {
  const catalogue = builtinCatalogue()
  const { gpus = 1, fpgas = 2, blockTokens = 16, machines = 1, tierPolicy = 'balanced' } = wish
  const model = catalogue.models.get('llama-2-7b')
  const link = catalogue.links.get('pcie3-x16')
  const network = catalogue.links.get('100gbe')
  if (!model || !link || !network) throw new InternalError('The catalogue lacks what tests need.')
  const planned = (kind: 'gpu' | 'fpga', index: number): PlannedDevice => {
    const built = deviceModel(catalogue, {
      device: kind === 'gpu' ? 'v100s' : 'u280',
      model: 'llama-2-7b',
      preset: 'glitches',
    })
    const { kvTokens } = wish
    const memory = built.kvMemories[0]
    const kvMemories =
      kvTokens === undefined || !memory
        ? built.kvMemories
        : [{ ...memory, bytes: kvTokens * built.kvBytesPerToken }]
    return {
      deviceId: `${kind}-${index}`,
      model: { ...built, kvMemories },
      capabilities: kind === 'gpu' ? ['prefill', 'decode'] : ['decode', 'prefill'],
      decodeSlots: (kind === 'gpu' ? wish.gpuSlots : wish.fpgaSlots) ?? 2,
      decodesAtOnce: (kind === 'gpu' ? wish.gpuSlots : wish.fpgaSlots) ?? 2,
      chunkTokens: 512,
      sharedChunkTokens: 64,
      tierPolicy,
      link,
    }
  }
  const devices = [
    ...Array.from({ length: gpus }, (_, index) => planned('gpu', index)),
    ...Array.from({ length: fpgas }, (_, index) => planned('fpga', index)),
  ]
  const { hostTokens = 0 } = wish
  const wireBytesPerToken = model.kvValuesPerToken
  return {
    name: 'test',
    model,
    preset: 'glitches',
    profile: 'paper',
    blockTokens,
    wireBytesPerToken,
    mergeLayers: 2,
    messageMs: 0.1,
    machines: Array.from({ length: machines }, (_, index) => ({
      id: `machine-${index}`,
      devices: devices.filter((_, at) => at % machines === index),
      hostTiers:
        hostTokens === 0
          ? []
          : [{ name: 'dram', bytes: hostTokens * wireBytesPerToken, bytesPerSecond: 50e9 }],
      hostIdleWatts: 100,
      hostDollars: 5_000,
      network,
    })),
  }
}
