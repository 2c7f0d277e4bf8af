/** What an agent is paced to, from its settings: entries of the catalogue, found and put together. */
import type { DeviceModel } from '@kvasir/catalogue/device-times'
import type { Catalogue, LinkSpec } from '@kvasir/catalogue/specs'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { AgentSettings } from '../settings.js'

export interface ChosenPace {
  readonly preset: string
  readonly deviceModel: DeviceModel
  /** Of the device, or at the rate that the settings give. */
  readonly link: LinkSpec
}

export type PaceSettings = Pick<
  AgentSettings,
  'paceAs' | 'paceModel' | 'pacePreset' | 'catalogue' | 'linkBytesPerSecond'
>

/** Preferred where nobody names one and it knows the device. */
const PRESET_DEFAULT = 'glitches'

/**
 * Undefined where the settings ask for none. Throws InvalidInputError for names that the catalogue does not have, and
 * for a model that does not fit on the device.
 */
export async function choosePace(settings: PaceSettings): Promise<ChosenPace | undefined> {
  const { paceAs, paceModel, pacePreset, linkBytesPerSecond } = settings
  const rest = { paceModel, pacePreset, catalogue: settings.catalogue[0] }
  if (paceAs === undefined) {
    const [alone] = Object.entries(rest).filter(([, value]) => value !== undefined)
    if (alone === undefined) return undefined
    throw new InvalidInputError(
      `${alone[0]} says nothing without paceAs, the device of the catalogue to keep pace with; give both or neither.`,
      { param: alone[0] },
    )
  }
  if (paceModel === undefined) {
    throw new InvalidInputError(
      `paceAs is ${paceAs}, but for which model is not said; set paceModel, such as llama-2-7b.`,
      { param: 'paceModel' },
    )
  }
  // The catalogue and its reader are for those who are paced.
  const { loadCatalogue } = await import('@kvasir/catalogue/load-catalogue')
  const { deviceModel: modelOn } = await import('@kvasir/catalogue/device-model')
  const catalogue = loadCatalogue(settings.catalogue)
  const preset = pacePreset ?? presetFor(catalogue, paceAs)
  const deviceModel = modelOn(catalogue, { device: paceAs, model: paceModel, preset })
  const own = catalogue.links.get(deviceModel.device.link)
  if (own === undefined) {
    throw new InvalidInputError(`The catalogue has no link ${deviceModel.device.link}, which ${paceAs} has.`)
  }
  const link = linkBytesPerSecond > 0 ? { ...own, bytesPerSecond: linkBytesPerSecond } : own
  return { preset, deviceModel, link }
}

function presetFor({ presets }: Catalogue, device: string): string {
  if (presets.get(PRESET_DEFAULT)?.devices[device] !== undefined) return PRESET_DEFAULT
  const knowing = [...presets.values()].find(({ devices }) => devices[device] !== undefined)
  return knowing?.id ?? PRESET_DEFAULT
}
