/**
 * A device that keeps the times of a catalogued one: its models end their steps, and its link sends KV, when the
 * catalogued device with the catalogued model would.
 *
 * Invariants:
 * P1 What is told of memory counts tokens as the catalogued device would: in bytes of the catalogued model, bounded by
 *    the memory that is really here.
 * P2 The clock alone is not real: tokens, KV, leases and messages are.
 */
import { type DeviceModel, type DeviceTimes, deviceTimes } from '@kvasir/catalogue/device-times'
import type { LinkSpec, PrecisionId } from '@kvasir/catalogue/specs'
import { wireBytesPerToken } from '@kvasir/catalogue/wire-bytes'
import { BLOCK_TOKENS, type DriverModel, type LoadedModelFacts } from '@kvasir/engine/device-driver'
import { type PacedSteps, Precision, Profile, TierKind } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { Clock } from '@kvasir/runtime/clock'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { DeviceDefinition, TierDefinition } from '../definition.js'
import type { OpenedTier, SizedTier } from '../device-tiers.js'
import type { ChosenPace } from './choose-pace.js'
import { type PacedCounts, PacedModel } from './paced-model.js'
import { StepSchedule } from './step-schedule.js'
import { stepWorkOf } from './step-work.js'

const TIER_KINDS: Readonly<Record<string, TierKind>> = {
  onchip: TierKind.ON_CHIP,
  hbm: TierKind.HBM,
  ddr: TierKind.DDR,
  lpddr: TierKind.DDR,
  dram: TierKind.HOST_DRAM,
}
const PRECISIONS: Readonly<Record<PrecisionId, Precision>> = {
  fp64: Precision.F32,
  fp32: Precision.F32,
  tf32: Precision.F32,
  fp16: Precision.F16,
  bf16: Precision.BF16,
  fp8: Precision.INT8,
  int8: Precision.INT8,
  int4: Precision.INT4,
  fp4: Precision.INT4,
}

/** The kind's definition with the catalogued device in its place. Throws InvalidInputError for a kind without a device. */
export function pacedDefinition(definition: DeviceDefinition, pace: Pace): DeviceDefinition {
  const { kind, driver } = definition
  if (driver === undefined) {
    throw new InvalidInputError(`A device of kind ${kind} computes nothing; leave paceAs out.`, {
      param: 'paceAs',
    })
  }
  return {
    ...definition,
    tiers: pace.tierDefinitions,
    decodeSlotsDefault: definition.decodeSlotsDefault === 0 ? 0 : pace.deviceModel.use.decodesAtOnce,
    linkClass: pace.link.id,
  }
}

export class Pace {
  readonly preset: string
  readonly deviceModel: DeviceModel
  readonly link: LinkSpec
  readonly counts: PacedCounts = { steps: 0, lateSteps: 0, lateMs: 0, busyMs: 0 }
  private readonly times: DeviceTimes
  private readonly schedule: StepSchedule

  constructor(
    { preset, deviceModel, link }: ChosenPace,
    private readonly clock: Clock,
  ) {
    this.preset = preset
    this.deviceModel = deviceModel
    this.link = link
    this.times = deviceTimes(deviceModel)
    this.schedule = new StepSchedule(clock)
  }

  /** For people. */
  get name(): string {
    const { device, model } = this.deviceModel
    return `${device.id} with ${model.id} (${this.preset})`
  }

  get tierDefinitions(): readonly [TierDefinition, ...TierDefinition[]] {
    const [nearest, ...others] = this.deviceModel.kvMemories
    const definition = (name: string, bytes: TierDefinition['bytes']): TierDefinition => {
      return { name, kind: TIER_KINDS[name] ?? TierKind.HOST_DRAM, bytes }
    }
    return [
      definition(nearest?.name ?? 'hbm', 'tierBytes'),
      ...others.map(({ name }) => definition(name, 'ddrBytes')),
    ]
  }

  /** Of KV in the catalogued device's memory, whole bytes. */
  get blockBytes(): number {
    return Math.round(BLOCK_TOKENS * this.deviceModel.kvBytesPerToken)
  }

  /** `tiers` with the tokens that the catalogued device holds, where so many fit in what there is. */
  sizedTiers(tiers: readonly SizedTier[], ownBlockBytes: number): readonly SizedTier[] {
    return tiers.map((tier) => {
      const blocks = Math.floor(this.memory(tier.definition.name).bytes / this.blockBytes)
      return { ...tier, bytes: Math.min(tier.bytes, blocks * ownBlockBytes) }
    })
  }

  openedTier({ definition, bytes }: SizedTier, ownBlockBytes: number): OpenedTier {
    const blocks = Math.floor(bytes / ownBlockBytes)
    const { bytesPerSecond } = this.memory(definition.name)
    return { definition, blocks, capacityBytes: blocks * this.blockBytes, bytesPerSecond, isModelled: true }
  }

  /** What the catalogued device holds, tokens. */
  get cataloguedKvTokens(): number {
    const blocks = this.deviceModel.kvMemories.map(({ bytes }) => Math.floor(bytes / this.blockBytes))
    return blocks.reduce((sum, count) => sum + count, 0) * BLOCK_TOKENS
  }

  /** For load reports. */
  told(): PacedSteps {
    const { steps, lateSteps, lateMs, busyMs } = this.counts
    return {
      steps: BigInt(steps),
      lateSteps: BigInt(lateSteps),
      lateUs: BigInt(Math.round(lateMs * 1_000)),
      busyUs: BigInt(Math.round(busyMs * 1_000)),
    }
  }

  model(inner: DriverModel, tiers: readonly OpenedTier[]): DriverModel {
    const tierBlocks = tiers.map(({ blocks }) => blocks)
    const { kvBytesPerToken } = this.deviceModel
    return new PacedModel({
      inner,
      times: this.times,
      workOf: (sequences, moved) => stepWorkOf(sequences, moved, tierBlocks, kvBytesPerToken),
      schedule: this.schedule,
      counts: this.counts,
      clock: this.clock,
    })
  }

  /** KV of a token over all layers as it is sent in this profile (docs/numerics.md). */
  wireBytesPerToken(profile: Profile): number {
    return wireBytesPerToken(this.deviceModel.model, profile === Profile.PAPER ? 'paper' : 'exact')
  }

  /** Bytes of the catalogued model for each byte of KV that is sent. */
  linkFactor({ layers, blockLayerBytes }: LoadedModelFacts, profile: Profile): number {
    return this.wireBytesPerToken(profile) / ((layers * blockLayerBytes) / BLOCK_TOKENS)
  }

  /** Rated peak, in the precision that its profile computes in. */
  compute(profile: Profile): { readonly precision: Precision; readonly peakOpsPerSecond: number } {
    const { device, use } = this.deviceModel
    const precision = profile === Profile.PAPER ? PRECISIONS[use.computePrecision] : Precision.F32
    return { precision, peakOpsPerSecond: device.compute[use.computePrecision] ?? 0 }
  }

  private memory(tier: string): DeviceModel['kvMemories'][number] {
    const memory = this.deviceModel.kvMemories.find(({ name }) => name === tier)
    if (memory === undefined) throw new Error(`The paced device has no memory ${tier}`)
    return memory
  }
}
