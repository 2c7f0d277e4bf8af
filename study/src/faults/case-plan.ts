/**
 * The cluster of a case as a virtual cluster takes it. Its devices are made up, not catalogued: small, so that memory is
 * short, and with the times that the case gives, since here nothing is measured and everything may fail.
 */
import type { DeviceModel } from '@kvasir/catalogue/device-times'
import type { LinkSpec, ModelSpec } from '@kvasir/catalogue/specs'
import type { CapabilityName, ClusterPlan, PlannedDevice } from '../cluster/cluster-plan.js'
import type { CaseCluster, CaseDevice } from './fault-case.js'

const KV_BYTES_PER_TOKEN = 1_024
const LAYERS = 4
const WEIGHT_BYTES = 2_000_000
const HOST_BYTES_PER_SECOND = 50_000_000

const MODEL: ModelSpec = {
  id: 'toy',
  name: 'toy',
  layers: LAYERS,
  hidden: 64,
  heads: 4,
  kvHeads: 4,
  headDim: 16,
  feedForward: 256,
  vocabulary: 256,
  tiedEmbeddings: false,
  parameters: 1_000_000,
  activeParameters: 1_000_000,
  embeddingParameters: 0,
  kvValuesPerToken: KV_BYTES_PER_TOKEN / 2,
  contextTokensMax: 4_096,
  sources: {},
}

const CAPABILITIES: Readonly<Record<CaseDevice['kind'], readonly CapabilityName[]>> = {
  'prefers-prefill': ['prefill', 'decode', 'kv-tier'],
  'prefers-decode': ['decode', 'prefill', 'kv-tier'],
  'decodes-only': ['decode', 'kv-tier'],
}

export function planOf(cluster: CaseCluster): ClusterPlan {
  const { blockTokens, mergeLayers, messageMs, machines } = cluster
  return {
    name: 'faults',
    model: MODEL,
    preset: 'made up',
    profile: 'exact',
    blockTokens,
    wireBytesPerToken: KV_BYTES_PER_TOKEN,
    mergeLayers,
    messageMs,
    machines: machines.map(({ id, hostBlocks, devices }) => ({
      id,
      devices: devices.map((device) => planned(device, blockTokens)),
      hostTiers:
        hostBlocks === 0
          ? []
          : [
              {
                name: 'dram',
                bytes: hostBlocks * blockTokens * KV_BYTES_PER_TOKEN,
                bytesPerSecond: HOST_BYTES_PER_SECOND,
              },
            ],
      hostIdleWatts: 0,
      hostDollars: 0,
      network: link(HOST_BYTES_PER_SECOND),
    })),
  }
}

function planned(device: CaseDevice, blockTokens: number): PlannedDevice {
  const { deviceId, kind, decodeSlots, decodesAtOnce, chunkTokens, tierPolicy, linkBytesPerMs } = device
  return {
    deviceId,
    model: modelOn(device, blockTokens),
    capabilities: CAPABILITIES[kind],
    decodeSlots,
    decodesAtOnce,
    chunkTokens,
    sharedChunkTokens: Math.min(32, chunkTokens),
    tierPolicy,
    link: link(linkBytesPerMs * 1_000),
  }
}

function modelOn({ deviceId, tierBlocks, tokenMs, stepMs }: CaseDevice, blockTokens: number): DeviceModel {
  // The rates of which the wanted times follow by the roofline.
  const weightBytesPerSecond = (WEIGHT_BYTES / stepMs) * 1_000
  const memories = tierBlocks.map((blocks, tier) => ({
    name: tier === 0 ? 'hbm' : 'ddr',
    bytes: blocks * blockTokens * KV_BYTES_PER_TOKEN,
    bytesPerSecond: weightBytesPerSecond / (tier + 1),
  }))
  return {
    device: {
      id: deviceId,
      name: deviceId,
      kind: 'npu',
      compute: { fp32: ((2 * MODEL.parameters) / tokenMs) * 1_000 },
      memories,
      link: 'made-up',
      sources: {},
    },
    model: MODEL,
    use: {
      computePrecision: 'fp32',
      prefillCompute: 1,
      decodeBandwidth: 1,
      weightBits: 16,
      kvBits: 16,
      decodesAtOnce: 1,
      fusesSteps: false,
      sources: {},
    },
    weightBytes: WEIGHT_BYTES,
    stepWeightBytes: WEIGHT_BYTES,
    weightMemory: { name: 'weights', bytesPerSecond: weightBytesPerSecond },
    kvBytesPerToken: KV_BYTES_PER_TOKEN,
    kvMemories: memories,
  }
}

function link(bytesPerSecond: number): LinkSpec {
  return {
    id: 'made-up',
    name: 'made up',
    bytesPerSecond,
    rawBytesPerSecond: bytesPerSecond,
    latencyUs: 50,
    sources: {},
  }
}
