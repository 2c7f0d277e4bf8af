/**
 * What a paced device advertises in place of its own: the rates, sizes, power and price of the catalogued one, from which
 * a coordinator places as a study does.
 */
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import type { Advertisement, LoadedModel, Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { ServedModel } from '../served-model.js'
import type { Pace } from './pace.js'

export function cataloguedTraits(
  pace: Pace,
  models: readonly ServedModel[],
): Pick<
  Advertisement,
  'deviceModel' | 'compute' | 'link' | 'idleWatts' | 'maxWatts' | 'priceDollars' | 'modelled' | 'pace'
> {
  const { deviceModel, link, preset } = pace
  const { device, model } = deviceModel
  const profiles = [...new Set(models.map(({ profile }) => profile))]
  const kvBlocks = Math.max(
    0,
    ...models.map(({ tiers }) => tiers.reduce((sum, tier) => sum + tier.blocks, 0)),
  )
  return {
    deviceModel: `${device.name}, in its times alone`,
    compute: profiles.map((profile) => pace.compute(profile)),
    link: { class: link.id, bytesPerSecond: link.bytesPerSecond, latencyUs: link.latencyUs },
    idleWatts: device.idleWatts ?? 0,
    maxWatts: device.maxWatts ?? 0,
    priceDollars: device.dollars ?? 0,
    modelled: true,
    pace: {
      device: device.id,
      model: model.id,
      preset,
      kvTokens: BigInt(kvBlocks * BLOCK_TOKENS),
      cataloguedKvTokens: BigInt(pace.cataloguedKvTokens),
    },
  }
}

export function cataloguedModel(
  pace: Pace,
  profile: Profile,
): Pick<LoadedModel, 'kvBytesPerToken' | 'poolBytesPerToken' | 'parameters' | 'weightBytes' | 'compute'> {
  const { model, stepWeightBytes, kvBytesPerToken } = pace.deviceModel
  return {
    kvBytesPerToken: BigInt(Math.round(pace.wireBytesPerToken(profile))),
    poolBytesPerToken: BigInt(Math.round(kvBytesPerToken)),
    parameters: BigInt(Math.round(model.activeParameters - model.embeddingParameters)),
    weightBytes: BigInt(Math.round(stepWeightBytes)),
    compute: [pace.compute(profile)],
  }
}
