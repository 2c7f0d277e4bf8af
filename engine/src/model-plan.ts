/** What loading a model would take, worked out from its configuration and the headers of its files. */
import type { ModelOptions, ModelPlan } from './device-driver.js'
import { kvBlockBytes } from './kv-format.js'
import type { ModelConfig } from './model-config.js'
import { resolveModel } from './model-files.js'
import { weightSizes } from './weight-sizes.js'

/** Throws as `resolveModel` does. */
export async function inspectModel({ model: spec, numerics }: ModelOptions): Promise<ModelPlan> {
  const { name, config, digest, openWeights } = await resolveModel(spec)
  const source = openWeights()
  try {
    return {
      name,
      digest: await digest(),
      weightBytes: weightSizes(config, source, numerics.weights).residentBytes,
      poolBlockBytes: config.layers * kvBlockBytes(config, numerics.pool),
      contextTokensMax: config.contextTokensMax,
    }
  } finally {
    source.close()
  }
}

/** All of a model's weights; a head that is the embedding table counts once. */
export function parameterCount(config: ModelConfig): number {
  const { hiddenSize, heads, kvHeads, headDim, intermediateSize, layers, vocabularySize } = config
  const matrices = hiddenSize * (2 * (heads + kvHeads) * headDim + 3 * intermediateSize)
  const biases = config.qkvBias ? (heads + 2 * kvHeads) * headDim : 0
  const norms = 2 * hiddenSize + (config.qkNorm ? 2 * headDim : 0)
  const tables = vocabularySize * hiddenSize * (config.tiedEmbeddings ? 1 : 2)
  return layers * (matrices + biases + norms) + hiddenSize + tables
}
