/** A catalogued model put on a catalogued device: what its weights take, and what memory is left for KV. */
import { didYouMean } from '@kvasir/runtime/did-you-mean'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { sizeText } from '@kvasir/runtime/size-text'
import type { DeviceModel } from './device-times.js'
import type { Catalogue, DeviceUse } from './specs.js'

export interface DeviceModelQuery {
  /** Ids in the catalogue. */
  readonly device: string
  readonly model: string
  readonly preset: string
  /** Instead of the preset's. */
  readonly weightBits?: number
  readonly kvBits?: number
}

/**
 * Throws InvalidInputError for an id that is not in the catalogue, for a device the preset has no figures of, and for a
 * model whose weights fit in none of the device's memories or leave no room for a token, with what is lacking.
 */
export function deviceModel(catalogue: Catalogue, query: DeviceModelQuery): DeviceModel {
  const device = find(catalogue.devices, query.device, 'device')
  const model = find(catalogue.models, query.model, 'model')
  const preset = find(catalogue.presets, query.preset, 'preset')
  const published = preset.devices[device.id]
  if (!published) {
    const others = [...catalogue.presets.values()].filter((other) => other.devices[device.id] !== undefined)
    const where = others.length > 0 ? `take ${others.map(({ id }) => id).join(' or ')}, or ` : ''
    throw new InvalidInputError(
      `The preset ${preset.id} has no figures for ${device.id}; it has them for ${Object.keys(preset.devices).join(', ')}: ${where}add presets.${preset.id}.devices.${device.id} in a catalogue file of yours.`,
      { param: 'preset' },
    )
  }
  const use: DeviceUse = {
    ...published,
    weightBits: query.weightBits ?? published.weightBits,
    kvBits: query.kvBits ?? published.kvBits,
  }
  const weightBytes = (model.parameters * use.weightBits) / 8
  const stepWeightBytes = ((model.activeParameters - model.embeddingParameters) * use.weightBits) / 8
  const kvBytesPerToken = (model.kvValuesPerToken * use.kvBits) / 8

  const weightMemory = device.memories.find(({ bytes }) => bytes >= weightBytes)
  if (!weightMemory) {
    const largest = device.memories.reduce((a, b) => (b.bytes > a.bytes ? b : a))
    throw new InvalidInputError(
      `${model.name} does not fit on ${device.id}: its weights take ${sizeText(weightBytes)} at ${use.weightBits} bits, and the largest memory, ${largest.name}, has ${sizeText(largest.bytes)}; ${sizeText(weightBytes - largest.bytes)} are lacking. Take a larger device, a smaller model or fewer weightBits.`,
      { param: 'model' },
    )
  }
  const kvMemories = device.memories
    .map(({ name, bytes, bytesPerSecond }) => {
      return { name, bytes: name === weightMemory.name ? bytes - weightBytes : bytes, bytesPerSecond }
    })
    .filter(({ bytes }) => bytes >= kvBytesPerToken)
  if (kvMemories.length === 0) {
    throw new InvalidInputError(
      `${model.name} leaves no room for KV on ${device.id}: a token takes ${sizeText(kvBytesPerToken)}, and ${sizeText(weightMemory.bytes - weightBytes)} are left beside the weights. Take a larger device, a smaller model or fewer weightBits.`,
      { param: 'model' },
    )
  }
  return {
    device,
    model,
    use,
    weightBytes,
    stepWeightBytes,
    weightMemory: { name: weightMemory.name, bytesPerSecond: weightMemory.bytesPerSecond },
    kvBytesPerToken,
    kvMemories,
  }
}

function find<Spec>(specs: ReadonlyMap<string, Spec>, id: string, what: string): Spec {
  const spec = specs.get(id)
  if (spec !== undefined) return spec
  const known = [...specs.keys()]
  const hint = didYouMean(id, known)
  throw new InvalidInputError(
    `The catalogue has no ${what} ${id}${hint === '' ? `; it has ${known.join(', ')}` : hint}.`,
    { param: what },
  )
}
