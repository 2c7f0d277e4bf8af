/** Loads a model into a device's driver and measures what the device achieves with it. */
import { availableParallelism } from 'node:os'
import type { DeviceDriver, ModelOptions, ModelPlan } from '@kvasir/engine/device-driver'
import { EXACT, type Numerics, PAPER_FLOAT, PAPER_QUANTISED } from '@kvasir/engine/numerics'
import { Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { Logger } from '@kvasir/runtime/log'
import { measureRates } from './calibration.js'
import type { DeviceDefinition } from './definition.js'
import { openedTier, poolBlocks, type SizedTier } from './device-tiers.js'
import type { Pace } from './pace/pace.js'
import { type OpenedModel, profileName } from './served-model.js'

/** In which numbers a device computes a profile. */
export function numericsOf(
  { paperNumerics }: Pick<DeviceDefinition, 'paperNumerics'>,
  profile: Profile,
): Numerics {
  if (profile !== Profile.PAPER) return EXACT
  return paperNumerics === 'quantised' ? PAPER_QUANTISED : PAPER_FLOAT
}

export interface ModelToOpen {
  readonly options: ModelOptions
  readonly profile: Profile
  readonly plan: ModelPlan
  readonly tiers: readonly SizedTier[]
  /** Set where the device keeps the times of a catalogued one; the measuring runs at this machine's speed. */
  readonly pace: Pace | undefined
}

/** Throws as `DeviceDriver.loadModel` does, and InvalidInputError for tiers that hold nothing. */
export async function openModel(
  device: DeviceDriver,
  { options, profile, plan, tiers, pace }: ModelToOpen,
  log: Logger,
): Promise<OpenedModel> {
  const blockBytes = plan.poolBlockBytes
  const kvBlocksMax = poolBlocks(tiers, blockBytes, plan.name)
  const driver = await device.loadModel({ ...options, kvBlocksMax })
  try {
    const { facts } = driver
    const rates = await measureRates(driver, facts, kvBlocksMax)
    const opened = tiers.map((tier) =>
      pace === undefined ? openedTier(tier, blockBytes, rates) : pace.openedTier(tier, blockBytes),
    )
    log.info(
      {
        model: facts.name,
        digest: facts.digest,
        profile: profileName(profile),
        kvBlocksMax,
        cores: availableParallelism(),
        ...rates,
      },
      'model loaded and measured',
    )
    return {
      driver: pace === undefined ? driver : pace.model(driver, opened),
      profile,
      rates,
      tiers: opened,
      residentBytes: plan.weightBytes,
      pace,
    }
  } catch (error) {
    await driver.unload().catch(() => {})
    throw error
  }
}
