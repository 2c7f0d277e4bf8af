/** The shapes of generated models, under the names that follow `dummy:`. */
import { NotFoundError } from '@kvasir/runtime/errors'
import type { ModelConfig } from './model-config.js'

export const DUMMY_PREFIX = 'dummy:'

/** What every shape names, and what only some do. */
type DummyShape = Pick<
  ModelConfig,
  | 'hiddenSize'
  | 'layers'
  | 'heads'
  | 'kvHeads'
  | 'headDim'
  | 'intermediateSize'
  | 'vocabularySize'
  | 'contextTokensMax'
> &
  Partial<ModelConfig>

const SHAPES: Readonly<Record<string, DummyShape>> = {
  /** 487 million parameters. */
  'llama-0.5b': {
    hiddenSize: 1024,
    layers: 24,
    heads: 16,
    kvHeads: 4,
    headDim: 64,
    intermediateSize: 4864,
    vocabularySize: 32_000,
    contextTokensMax: 4096,
  },
  /** One layer of it with a long context, to measure attention alone. */
  'llama-0.5b-layer': {
    hiddenSize: 1024,
    layers: 1,
    heads: 16,
    kvHeads: 4,
    headDim: 64,
    intermediateSize: 256,
    vocabularySize: 515,
    contextTokensMax: 65_536,
  },
  /** For tests: large enough for its weights to show in a process's memory, 87 million parameters. */
  'llama-0.1b': {
    hiddenSize: 768,
    layers: 10,
    heads: 12,
    kvHeads: 4,
    headDim: 64,
    intermediateSize: 3072,
    vocabularySize: 515,
    contextTokensMax: 2048,
  },
  /** For tests: sizes that are no multiples of a vector register where the layout allows it. */
  'llama-tiny': {
    hiddenSize: 72,
    layers: 3,
    heads: 6,
    kvHeads: 2,
    headDim: 32,
    intermediateSize: 180,
    vocabularySize: 515,
    contextTokensMax: 2048,
  },
  /** For tests: the table of embeddings is the head too, and q, k and v have biases. */
  'qwen-tiny': {
    hiddenSize: 96,
    layers: 4,
    heads: 6,
    kvHeads: 2,
    headDim: 16,
    intermediateSize: 192,
    vocabularySize: 600,
    contextTokensMax: 2048,
    tiedEmbeddings: true,
    qkvBias: true,
  },
  /** TinyLlama/TinyLlama-1.1B-Chat-v1.0. */
  'tinyllama-1.1b': {
    hiddenSize: 2048,
    layers: 22,
    heads: 32,
    kvHeads: 4,
    headDim: 64,
    intermediateSize: 5632,
    vocabularySize: 32_000,
    contextTokensMax: 2048,
  },
  /** Qwen/Qwen2.5-0.5B. */
  'qwen2.5-0.5b': {
    hiddenSize: 896,
    layers: 24,
    heads: 14,
    kvHeads: 2,
    headDim: 64,
    intermediateSize: 4864,
    vocabularySize: 151_936,
    contextTokensMax: 32_768,
    normEpsilon: 1e-6,
    ropeTheta: 1_000_000,
    tiedEmbeddings: true,
    qkvBias: true,
  },
  /** meta-llama/Llama-3.2-1B. */
  'llama-3.2-1b': {
    hiddenSize: 2048,
    layers: 16,
    heads: 32,
    kvHeads: 8,
    headDim: 64,
    intermediateSize: 8192,
    vocabularySize: 128_256,
    contextTokensMax: 131_072,
    ropeTheta: 500_000,
    ropeScaling: {
      kind: 'llama3',
      factor: 32,
      lowFrequencyFactor: 1,
      highFrequencyFactor: 4,
      originalContextTokens: 8192,
    },
    tiedEmbeddings: true,
  },
  /** meta-llama/Llama-2-7b-hf. */
  'llama-2-7b': {
    hiddenSize: 4096,
    layers: 32,
    heads: 32,
    kvHeads: 32,
    headDim: 128,
    intermediateSize: 11_008,
    vocabularySize: 32_000,
    contextTokensMax: 4096,
  },
}

/** `name` is without the prefix, such as `llama-0.5b`. Throws NotFoundError. */
export function dummyConfig(name: string): ModelConfig {
  const shape = SHAPES[name]
  if (shape === undefined) {
    const known = Object.keys(SHAPES).map((key) => DUMMY_PREFIX + key)
    throw new NotFoundError(`There is no model ${DUMMY_PREFIX}${name}; use one of ${known.join(', ')}.`)
  }
  return {
    normEpsilon: 1e-5,
    ropeTheta: 10_000,
    ropeScaling: undefined,
    tiedEmbeddings: false,
    qkvBias: false,
    qkNorm: false,
    slidingWindow: undefined,
    stopTokens: [],
    ...shape,
  }
}
