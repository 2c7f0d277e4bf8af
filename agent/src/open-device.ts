/**
 * Gets a device ready before it serves: sizes its tiers, loads the model, measures what it achieves.
 */
import { availableParallelism } from 'node:os'
import { EXACT } from '@kvasir/engine/numerics'
import { Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import { type MeasuredRates, measureCopyRate, measureRates } from './calibration.js'
import type { DeviceDefinition, TierDefinition } from './definition.js'
import type { LoadedDevice } from './device.js'
import { variantOf } from './kv-shape.js'
import type { AgentSettings } from './settings.js'

/** DDR of a device that has it is so many times its nearest tier, unless the settings say otherwise. */
const DDR_TIMES = 4

export interface OpenedTier {
  readonly definition: TierDefinition
  /** 0 where the agent has no model. */
  readonly blocks: number
  /** Bytes that may hold KV blocks: whole blocks where their size is known. */
  readonly capacityBytes: number
  readonly bytesPerSecond: number
}

export interface OpenedDevice {
  readonly loaded: LoadedDevice | undefined
  readonly rates: MeasuredRates
  /** Nearest first. */
  readonly tiers: readonly OpenedTier[]
}

/** Throws InvalidInputError for tiers that hold nothing, or a model that cannot be loaded. */
export async function openDevice(
  definition: DeviceDefinition,
  settings: AgentSettings,
  log: Logger,
): Promise<OpenedDevice> {
  const sized = sizedTiers(definition, settings)
  const { driver: factory } = definition
  if (factory === undefined) {
    const rates = { opsPerSecond: 0, bytesPerSecond: measureCopyRate() }
    return { loaded: undefined, rates, tiers: sized.map((tier) => openedTier(tier, 0, rates)) }
  }
  const device = await factory.create(settings.threads === undefined ? {} : { threads: settings.threads })
  try {
    const options = { model: settings.model, numerics: EXACT }
    const { poolBlockBytes: blockBytes } = await device.inspectModel(options)
    for (const { definition: tier, bytes } of sized) {
      if (bytes >= blockBytes) continue
      throw new InvalidInputError(
        `A tier of ${bytes} bytes holds no KV block of the model ${settings.model}; set ${tier.bytes} to at least ${blockBytes}.`,
        { param: tier.bytes },
      )
    }
    const kvBlocksMax = sized.reduce((sum, { bytes }) => sum + Math.floor(bytes / blockBytes), 0)
    const driver = await device.loadModel({ ...options, kvBlocksMax })
    const model = driver.facts
    const rates = await measureRates(driver, model, kvBlocksMax)
    log.info(
      { model: model.name, digest: model.digest, kvBlocksMax, cores: availableParallelism(), ...rates },
      'model loaded and measured',
    )
    const loaded = { device, driver, model, variant: variantOf(model, Profile.EXACT), blockBytes }
    return { loaded, rates, tiers: sized.map((tier) => openedTier(tier, blockBytes, rates)) }
  } catch (error) {
    await device.close()
    throw error
  }
}

interface SizedTier {
  readonly definition: TierDefinition
  readonly bytes: number
}

/** The tiers that there are, with the bytes that the settings give them. */
function sizedTiers({ kind, tiers }: DeviceDefinition, settings: AgentSettings): SizedTier[] {
  const { tierBytes, ddrBytes = DDR_TIMES * tierBytes } = settings
  if ((settings.ddrBytes ?? 0) > 0 && tiers.every(({ bytes }) => bytes !== 'ddrBytes')) {
    throw new InvalidInputError(`A device of kind ${kind} has no DDR tier; leave ddrBytes out.`, {
      param: 'ddrBytes',
    })
  }
  return tiers
    .map((definition) => ({ definition, bytes: definition.bytes === 'tierBytes' ? tierBytes : ddrBytes }))
    .filter(({ definition, bytes }) => definition.bytes === 'tierBytes' || bytes > 0)
}

/** `blockBytes` 0: blocks of any size. */
function openedTier({ definition, bytes }: SizedTier, blockBytes: number, rates: MeasuredRates): OpenedTier {
  const blocks = blockBytes === 0 ? 0 : Math.floor(bytes / blockBytes)
  return {
    definition,
    blocks,
    capacityBytes: blockBytes === 0 ? bytes : blocks * blockBytes,
    bytesPerSecond: Math.round(rates.bytesPerSecond * (definition.bandwidthShare ?? 1)),
  }
}
