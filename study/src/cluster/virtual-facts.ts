/**
 * What virtual devices advertise and report: the same facts that paced agents give of the devices they stand for.
 */
import type { CoreLoad } from '@kvasir/agent/core/events'
import type { DeviceModel } from '@kvasir/catalogue/device-times'
import type { PrecisionId } from '@kvasir/catalogue/specs'
import type { DeviceFacts, LoadFacts, PrecisionName, TierLoad } from '@kvasir/coordinator/core/facts'
import type { ClusterPlan, PlannedDevice, PlannedMachine } from './cluster-plan.js'

const PRECISIONS: Readonly<Record<PrecisionId, PrecisionName>> = {
  fp64: 'f32',
  fp32: 'f32',
  tf32: 'f32',
  fp16: 'f16',
  bf16: 'bf16',
  fp8: 'int8',
  int8: 'int8',
  int4: 'int4',
  fp4: 'int4',
}

const PROTOCOL_VERSION = 1

export interface FactsOf {
  readonly digest: string
  readonly variant: string
}

/** Both follow from the plan alone, since a cluster serves one model. */
export function modelNames({ model, profile }: ClusterPlan): FactsOf {
  return { digest: model.id, variant: `${model.id} ${profile}` }
}

export function deviceFacts(plan: ClusterPlan, device: PlannedDevice, incarnation: string): DeviceFacts {
  const { model, link } = device
  const names = modelNames(plan)
  const { computePrecision } = model.use
  return {
    deviceId: device.deviceId,
    incarnation,
    protocolVersion: PROTOCOL_VERSION,
    protocolVersionMin: PROTOCOL_VERSION,
    capabilities: device.capabilities,
    models: [
      {
        name: plan.model.name,
        digest: names.digest,
        profile: plan.profile,
        numerics: `w${model.use.weightBits}+kv${model.use.kvBits}`,
        contextTokensMax: plan.model.contextTokensMax,
        kvBytesPerToken: plan.wireBytesPerToken,
        poolBytesPerToken: model.kvBytesPerToken,
        layers: plan.model.layers,
        parameters: plan.model.activeParameters - plan.model.embeddingParameters,
        weightBytes: model.stepWeightBytes,
        variant: names.variant,
        tiers: [],
        compute: [],
        blockTokens: plan.blockTokens,
      },
    ],
    decodeSlots: device.decodeSlots,
    tiers: model.kvMemories.map(({ name, bytes, bytesPerSecond }) => {
      return { name, capacityBytes: bytes, bytesPerSecond }
    }),
    compute: [
      {
        precision: plan.profile === 'exact' ? 'f32' : PRECISIONS[computePrecision],
        opsPerSecond: model.device.compute[computePrecision] ?? 0,
      },
    ],
    kernels: [],
    modelled: true,
    link: { bytesPerSecond: link.bytesPerSecond, latencyMs: link.latencyUs / 1_000 },
  }
}

/** A host that keeps blocks of its machine's devices. */
export function hostFacts(
  plan: ClusterPlan,
  machine: PlannedMachine,
  deviceId: string,
  incarnation: string,
): DeviceFacts {
  const rates = machine.hostTiers.map(({ bytesPerSecond }) => bytesPerSecond)
  return {
    deviceId,
    incarnation,
    protocolVersion: PROTOCOL_VERSION,
    protocolVersionMin: PROTOCOL_VERSION,
    capabilities: ['kv-tier'],
    models: [],
    decodeSlots: 0,
    tiers: machine.hostTiers.map(({ name, bytes, bytesPerSecond }) => {
      return { name, capacityBytes: bytes, bytesPerSecond }
    }),
    compute: [],
    kernels: [],
    modelled: true,
    link: { bytesPerSecond: Math.max(0, ...rates), latencyMs: plan.messageMs },
  }
}

/** `blockBytes`: of one block in the device's memory. */
export function loadFacts(
  facts: DeviceFacts,
  load: CoreLoad,
  numbers: { readonly sequence: number; readonly kvSequence: number; readonly blockBytes: number },
): LoadFacts {
  const { blockBytes } = numbers
  return {
    deviceId: facts.deviceId,
    incarnation: facts.incarnation,
    sequence: numbers.sequence,
    decodeSlotsUsed: load.decodeSlotsUsed,
    prefillTokensWaiting: load.prefillTokensWaiting,
    tiers: load.tiers.map(
      ({ name, leasedBlocks, capacityBlocks, cachedBlocks, ...tier }): TierLoad => ({
        name,
        leasedBytes: leasedBlocks * blockBytes,
        capacityBytes: capacityBlocks * blockBytes,
        cachedBytes: cachedBlocks * blockBytes,
        lookups: tier.lookups,
        hits: tier.hits,
        inBytes: tier.inBlocks * blockBytes,
        outBytes: tier.outBlocks * blockBytes,
        readBytes: tier.readBytes,
        droppedBlocks: tier.droppedBlocks,
      }),
    ),
    leases: load.leases,
    draining: load.draining,
    models: [],
    arriving: [],
    kvSequence: numbers.kvSequence,
  }
}

/** Blocks that each memory of the device holds. */
export function tierBlocks(model: DeviceModel, blockTokens: number): number[] {
  return model.kvMemories.map(({ bytes }) => Math.floor(bytes / (model.kvBytesPerToken * blockTokens)))
}
