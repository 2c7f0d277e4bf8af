/**
 * What a GGUF file says about its model, in the words of Hugging Face's config.json, so that both are checked by
 * the same rules (model-config.ts).
 *
 * C1 What this engine would compute wrongly is refused by its name: an architecture, a mixture of experts, a setting,
 *    a tensor that it would leave out.
 */
import { InvalidInputError, UnsupportedError } from '@kvasir/runtime/errors'
import { type ModelConfig, parseModelConfig } from '../model-config.js'
import { damaged, type GgufHeader, type GgufMetadata } from './gguf-header.js'
import { stopTokensOf } from './special-tokens.js'
import { ggufTensorName } from './tensor-names.js'

/** Architectures of GGUF, and what Hugging Face calls them. */
const ARCHITECTURES: Readonly<Record<string, string>> = {
  llama: 'LlamaForCausalLM',
  qwen2: 'Qwen2ForCausalLM',
  qwen3: 'Qwen3ForCausalLM',
}
/** Frequency factors of Llama 3, one for each pair of a head. */
export const ROPE_FACTORS = 'rope_freqs.weight'

export interface GgufConfig {
  readonly architecture: string
  readonly config: ModelConfig
}

/** `ropeFactors`: the tensor of that name, where there is one. `name` says whose configuration it is, in messages. */
export function ggufConfig(
  header: GgufHeader,
  ropeFactors: Float32Array | undefined,
  path: string,
  name: string,
): GgufConfig {
  const { metadata, tensors } = header
  const architecture = architectureOf(metadata, path, name)
  const read = new Settings(metadata, architecture, path)
  refuseSplit(metadata, name)
  const heads = read.count('attention.head_count')
  const hiddenSize = read.count('embedding_length')
  const headDim = read.optional('attention.key_length') ?? hiddenSize / heads
  const refuse = (setting: string): never => {
    throw new UnsupportedError(
      `The model ${name} needs ${setting}, which is not supported; use another model.`,
    )
  }
  const layers = read.count('block_count')
  if (layers > tensors.size) throw damaged(path, `it claims ${layers} layers and has ${tensors.size} tensors`)
  const valueDim = read.optional('attention.value_length') ?? headDim
  if (valueDim !== headDim) refuse(`${architecture}.attention.value_length ${valueDim}`)
  const rotated = read.optional('rope.dimension_count') ?? headDim
  if (rotated !== headDim) refuse(`${architecture}.rope.dimension_count ${rotated}`)
  const embeddings = tensors.get(ggufTensorName('model.embed_tokens.weight'))
  if (embeddings === undefined) throw damaged(path, 'it has no tensor token_embd.weight')

  const window = read.optional('attention.sliding_window') ?? 0
  if (window > 0 && architecture !== 'llama') refuse(`${architecture}.attention.sliding_window`)
  const config = parseModelConfig(
    {
      architectures: [window > 0 ? 'MistralForCausalLM' : ARCHITECTURES[architecture]],
      hidden_size: hiddenSize,
      num_hidden_layers: layers,
      num_attention_heads: heads,
      num_key_value_heads: read.optional('attention.head_count_kv') ?? heads,
      head_dim: headDim,
      intermediate_size: read.count('feed_forward_length'),
      vocab_size: embeddings.shape[0],
      max_position_embeddings: read.count('context_length'),
      rms_norm_eps: read.number('attention.layer_norm_rms_epsilon'),
      rope_theta: read.optional('rope.freq_base') ?? 10_000,
      rope_scaling: ropeScaling(read),
      tie_word_embeddings: !tensors.has(ggufTensorName('lm_head.weight')),
      eos_token_id: stopTokensOf(metadata),
      sliding_window: window > 0 ? window : null,
    },
    name,
  )
  refuseOtherTensors(header, config, name)
  if (ropeFactors === undefined || ropeFactors.every((factor) => factor === 1))
    return { architecture, config }
  if (config.ropeScaling !== undefined) refuse(`rope scaling ${config.ropeScaling.kind} with ${ROPE_FACTORS}`)
  if (ropeFactors.length !== headDim / 2) {
    throw damaged(
      path,
      `the tensor ${ROPE_FACTORS} has ${ropeFactors.length} numbers instead of ${headDim / 2}`,
    )
  }
  if (!ropeFactors.every((factor) => factor > 0 && Number.isFinite(factor))) {
    throw damaged(path, `the tensor ${ROPE_FACTORS} has a number that is no factor`)
  }
  const ropeScalingOfPairs = { kind: 'by-pair', factors: [...ropeFactors] } as const
  return { architecture, config: { ...config, ropeScaling: ropeScalingOfPairs } }
}

function architectureOf(metadata: GgufMetadata, path: string, name: string): string {
  const architecture = metadata.get('general.architecture')
  if (typeof architecture !== 'string') throw damaged(path, 'it does not name its architecture')
  const experts = metadata.get(`${architecture}.expert_count`)
  const known = Object.keys(ARCHITECTURES).join(', ')
  if (typeof experts === 'number' && experts > 0) {
    throw new UnsupportedError(
      `The model ${name} is a mixture of ${experts} experts (${architecture}), which is not supported; use a dense one of ${known}.`,
    )
  }
  if (!Object.hasOwn(ARCHITECTURES, architecture)) {
    throw new UnsupportedError(
      `The model ${name} has the architecture ${architecture}, which is not supported; use one of ${known}.`,
    )
  }
  return architecture
}

function refuseSplit(metadata: GgufMetadata, name: string): void {
  const parts = metadata.get('split.count')
  if (typeof parts === 'number' && parts > 1) {
    throw new UnsupportedError(
      `The model ${name} is cut into ${parts} GGUF files, which is not supported; join them with llama-gguf-split --merge.`,
    )
  }
}

/** A tensor that is left out would change what the model computes. */
function refuseOtherTensors({ tensors }: GgufHeader, config: ModelConfig, name: string): void {
  const known = new Set([ROPE_FACTORS, ...modelTensors(config).map(ggufTensorName)])
  for (const tensor of tensors.keys()) {
    if (!known.has(tensor)) {
      throw new UnsupportedError(
        `The model ${name} has the tensor ${tensor}, which is not supported; use another model.`,
      )
    }
  }
}

/** Names of all tensors that a model of this configuration has. */
export function modelTensors(config: ModelConfig): string[] {
  const names = ['model.embed_tokens.weight', 'model.norm.weight']
  if (!config.tiedEmbeddings) names.push('lm_head.weight')
  const parts = [
    'input_layernorm',
    'post_attention_layernorm',
    'mlp.gate_proj',
    'mlp.up_proj',
    'mlp.down_proj',
  ]
  const projections = ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj']
  const ofLayer = [...parts, ...projections, 'self_attn.o_proj'].map((part) => `${part}.weight`)
  if (config.qkvBias) ofLayer.push(...projections.map((part) => `${part}.bias`))
  if (config.qkNorm) ofLayer.push('self_attn.q_norm.weight', 'self_attn.k_norm.weight')
  for (let layer = 0; layer < config.layers; layer++) {
    names.push(...ofLayer.map((part) => `model.layers.${layer}.${part}`))
  }
  return names
}

function ropeScaling(read: Settings): Record<string, unknown> | null {
  // As llama.cpp reads it: a factor alone is linear scaling, older files have it under another name, and 0 is none.
  const factor = read.optional('rope.scaling.factor') ?? read.optional('rope.scale_linear')
  const kind = read.text('rope.scaling.type') ?? 'linear'
  const isUnscaled = factor === undefined || factor === 0 || factor === 1
  if (kind === 'none' || (kind === 'linear' && isUnscaled)) return null
  return { rope_type: kind, factor }
}

/** Metadata of the architecture, each value of the kind it must have. */
class Settings {
  readonly #metadata: GgufMetadata
  readonly #prefix: string
  readonly #path: string

  constructor(metadata: GgufMetadata, architecture: string, path: string) {
    this.#metadata = metadata
    this.#prefix = architecture
    this.#path = path
  }

  text(key: string): string | undefined {
    const value = this.#metadata.get(`${this.#prefix}.${key}`)
    return typeof value === 'string' ? value : undefined
  }

  optional(key: string): number | undefined {
    const name = `${this.#prefix}.${key}`
    let value = this.#metadata.get(name)
    if (value === undefined) return undefined
    if (Array.isArray(value)) {
      const [first, ...others] = value
      if (others.some((other) => other !== first)) {
        throw new UnsupportedError(
          `The model file ${this.#path} has another ${name} in each layer, which is not supported; use another model.`,
        )
      }
      value = first
    }
    if (typeof value === 'number' && Number.isFinite(value)) return value
    throw damaged(this.#path, `${name} is no number`)
  }

  number(key: string): number {
    const value = this.optional(key)
    if (value !== undefined) return value
    throw new InvalidInputError(
      `The model file ${this.#path} does not say its ${this.#prefix}.${key}; convert the model again with a current llama.cpp.`,
    )
  }

  count(key: string): number {
    const value = this.number(key)
    if (Number.isInteger(value) && value > 0) return value
    throw damaged(this.#path, `its ${this.#prefix}.${key} is ${value}`)
  }
}
