/** Models as messages, on the driver's side. */
import type * as wire from '@kvasir/proto/kvasir/driver/v1/driver'
import type { LoadedModelFacts, ModelOptions, ModelPlan } from '../device-driver.js'
import { numericsMessage, numericsOf } from './numerics-message.js'

/** Throws InvalidInputError for numerics that are none. */
export function modelOptionsOf({ model, numerics }: wire.Inspect): ModelOptions {
  return { model, numerics: numericsOf(numerics) }
}

export function planMessage(plan: ModelPlan): wire.Inspected {
  return {
    name: plan.name,
    digest: plan.digest,
    weightBytes: BigInt(plan.weightBytes),
    poolBlockBytes: BigInt(plan.poolBlockBytes),
    contextTokensMax: plan.contextTokensMax,
  }
}

export function loadedMessage(model: number, facts: LoadedModelFacts): wire.Loaded {
  const { slidingWindowTokens } = facts
  return {
    model,
    name: facts.name,
    digest: facts.digest,
    numerics: numericsMessage(facts.numerics),
    contextTokensMax: facts.contextTokensMax,
    vocabularySize: facts.vocabularySize,
    layers: facts.layers,
    heads: facts.heads,
    kvHeads: facts.kvHeads,
    headDim: facts.headDim,
    ...(slidingWindowTokens === undefined ? {} : { slidingWindowTokens }),
    blockLayerBytes: BigInt(facts.blockLayerBytes),
    poolBlockBytes: BigInt(facts.poolBlockBytes),
    parameters: BigInt(Math.round(facts.parameters)),
    weightBytes: BigInt(Math.round(facts.weightBytes)),
    stopTokens: [...facts.stopTokens],
  }
}
