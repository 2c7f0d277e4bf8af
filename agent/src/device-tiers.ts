/** The memories of a device that hold the KV blocks of one model: how large they are, and how fast. */
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { MeasuredRates } from './calibration.js'
import type { DeviceDefinition, TierDefinition } from './definition.js'
import type { AgentSettings } from './settings.js'

/** DDR of a device that has it is so many times its nearest tier, unless the settings say otherwise. */
const DDR_TIMES = 4

export interface SizedTier {
  readonly definition: TierDefinition
  readonly bytes: number
}

export interface OpenedTier {
  readonly definition: TierDefinition
  /** 0 where there is no model. */
  readonly blocks: number
  /** Bytes that may hold KV blocks: whole blocks where their size is known. */
  readonly capacityBytes: number
  readonly bytesPerSecond: number
  /** Capacity and rate are those of a catalogued device. */
  readonly isModelled?: boolean
}

/**
 * The tiers that there are, nearest first, with the bytes that the settings give each model in them.
 *
 * @param nearestBytes in place of the setting, for the nearest tier
 * @throws InvalidInputError for a tier that the device does not have
 */
export function sizedTiers(
  { kind, tiers }: Pick<DeviceDefinition, 'kind' | 'tiers'>,
  settings: AgentSettings,
  nearestBytes = settings.tierBytes,
): readonly SizedTier[] {
  const { ddrBytes = DDR_TIMES * nearestBytes } = settings
  if ((settings.ddrBytes ?? 0) > 0 && tiers.every(({ bytes }) => bytes !== 'ddrBytes')) {
    throw new InvalidInputError(`A device of kind ${kind} has no DDR tier; leave ddrBytes out.`, {
      param: 'ddrBytes',
    })
  }
  return tiers
    .map((definition) => ({ definition, bytes: definition.bytes === 'tierBytes' ? nearestBytes : ddrBytes }))
    .filter(({ definition, bytes }) => definition.bytes === 'tierBytes' || bytes > 0)
}

/** Blocks of all tiers together. Throws InvalidInputError for a tier that holds none. */
export function poolBlocks(sized: readonly SizedTier[], blockBytes: number, model: string): number {
  let blocks = 0
  for (const { definition: tier, bytes } of sized) {
    if (bytes < blockBytes) {
      throw new InvalidInputError(
        `A tier of ${bytes} bytes holds no KV block of the model ${model}; set ${tier.bytes} to at least ${blockBytes}, or give the load as many bytes for KV.`,
        { param: tier.bytes },
      )
    }
    blocks += Math.floor(bytes / blockBytes)
  }
  return blocks
}

/** `blockBytes` 0: blocks of any size. */
export function openedTier(
  { definition, bytes }: SizedTier,
  blockBytes: number,
  { bytesPerSecond }: Pick<MeasuredRates, 'bytesPerSecond'>,
): OpenedTier {
  const blocks = blockBytes === 0 ? 0 : Math.floor(bytes / blockBytes)
  return {
    definition,
    blocks,
    capacityBytes: blockBytes === 0 ? bytes : blocks * blockBytes,
    bytesPerSecond: Math.round(bytesPerSecond * (definition.bandwidthShare ?? 1)),
    ...(definition.bandwidthShare === undefined ? {} : { isModelled: true }),
  }
}
