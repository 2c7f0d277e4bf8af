/**
 * What a model is: the sizes and constants of its config.json, checked.
 *
 * C1 A configuration that this engine would compute wrongly is refused by the name of the setting,
 *    never approximated.
 * Not the job of this file: finding the model (model-files.ts), reading weights (safetensors.ts).
 */
import { InvalidInputError, UnsupportedError } from '@kvasir/runtime/errors'
import { z } from 'zod'

/** Frequency scaling of Llama 3.1 and later. */
export interface Llama3Scaling {
  readonly factor: number
  readonly lowFrequencyFactor: number
  readonly highFrequencyFactor: number
  readonly originalContextTokens: number
}

export interface ModelConfig {
  readonly hiddenSize: number
  readonly layers: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly intermediateSize: number
  readonly vocabularySize: number
  readonly normEpsilon: number
  readonly ropeTheta: number
  readonly ropeScaling: Llama3Scaling | undefined
  readonly contextTokensMax: number
  readonly tiedEmbeddings: boolean
  /** Whether the q, k and v projections have a bias (Qwen2). */
  readonly qkvBias: boolean
  /** Ends of text named by config.json. */
  readonly stopTokens: readonly number[]
}

/**
 * Largest head dimension: the scores' matrix product must fit one block of ONNX Runtime's
 * kernel, else its rounding would depend on how many keys a sequence has.
 */
const HEAD_DIM_MAX = 128

const count = z.number().int().positive()
const tokenIds = z.union([z.number().int().nonnegative(), z.array(z.number().int().nonnegative())])

const ropeSchema = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: z.number().positive().optional(),
  factor: z.number().positive().optional(),
  low_freq_factor: z.number().positive().optional(),
  high_freq_factor: z.number().positive().optional(),
  original_max_position_embeddings: count.optional(),
})

const configSchema = z.looseObject({
  architectures: z.tuple([z.string()], z.string()),
  hidden_size: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  intermediate_size: count,
  vocab_size: count,
  max_position_embeddings: count,
  rms_norm_eps: z.number().positive(),
  rope_theta: z.number().positive().nullish(),
  rope_scaling: ropeSchema.nullish(),
  rope_parameters: ropeSchema.nullish(),
  tie_word_embeddings: z.boolean().nullish(),
  eos_token_id: tokenIds.nullish(),
  hidden_act: z.string().nullish(),
  attention_bias: z.boolean().nullish(),
  mlp_bias: z.boolean().nullish(),
  sliding_window: z.number().nullish(),
  use_sliding_window: z.boolean().nullish(),
  partial_rotary_factor: z.number().nullish(),
  quantization_config: z.unknown().optional(),
})

const ARCHITECTURES = ['LlamaForCausalLM', 'MistralForCausalLM', 'Qwen2ForCausalLM']

/** `name` says whose configuration it is, in messages. */
export function parseModelConfig(json: unknown, name: string): ModelConfig {
  const named = z.looseObject({ architectures: z.array(z.string()) }).safeParse(json)
  const architecture = named.data?.architectures[0]
  if (architecture !== undefined && !ARCHITECTURES.includes(architecture)) {
    throw new UnsupportedError(
      `The model ${name} has the architecture ${architecture}; use one of ${ARCHITECTURES.join(', ')}.`,
    )
  }
  const parsed = configSchema.safeParse(json)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw new InvalidInputError(
      `config.json of the model ${name} is not valid: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}; fetch the model again.`,
    )
  }
  const config = parsed.data
  const qwen2 = config.architectures[0] === 'Qwen2ForCausalLM'
  const refuse = (setting: string) => {
    throw new UnsupportedError(
      `The model ${name} needs ${setting}, which is not supported; use another model.`,
    )
  }
  if ((config.hidden_act ?? 'silu') !== 'silu') refuse(`hidden_act ${config.hidden_act}`)
  if (config.attention_bias === true && !qwen2) refuse('attention_bias')
  if (config.mlp_bias === true) refuse('mlp_bias')
  if (config.quantization_config !== undefined && config.quantization_config !== null) {
    refuse('quantization_config')
  }
  if ((config.partial_rotary_factor ?? 1) !== 1) refuse('partial_rotary_factor')
  const window = config.sliding_window ?? config.max_position_embeddings
  const windowUsed = qwen2 ? config.use_sliding_window === true : true
  if (windowUsed && window < config.max_position_embeddings) refuse('sliding_window')

  const heads = config.num_attention_heads
  const kvHeads = config.num_key_value_heads ?? heads
  const headDim = config.head_dim ?? config.hidden_size / heads
  if (!Number.isInteger(headDim) || heads % kvHeads !== 0) {
    throw new InvalidInputError(
      `config.json of the model ${name} has head counts that do not divide; fetch the model again.`,
    )
  }
  if (headDim % 2 !== 0 || headDim > HEAD_DIM_MAX) refuse(`head_dim ${headDim}`)
  const rope = config.rope_parameters ?? config.rope_scaling ?? undefined
  return {
    hiddenSize: config.hidden_size,
    layers: config.num_hidden_layers,
    heads,
    kvHeads,
    headDim,
    intermediateSize: config.intermediate_size,
    vocabularySize: config.vocab_size,
    normEpsilon: config.rms_norm_eps,
    ropeTheta: rope?.rope_theta ?? config.rope_theta ?? 10_000,
    ropeScaling: rope === undefined ? undefined : ropeScaling(rope, refuse),
    contextTokensMax: config.max_position_embeddings,
    tiedEmbeddings: config.tie_word_embeddings ?? false,
    qkvBias: qwen2,
    stopTokens: tokenIdList(config.eos_token_id),
  }
}

/** `eos_token_id` of config.json and generation_config.json: a number, a list, or nothing. */
export function tokenIdList(value: unknown): number[] {
  const parsed = tokenIds.safeParse(value)
  if (!parsed.success) return []
  return Array.isArray(parsed.data) ? parsed.data : [parsed.data]
}

function ropeScaling(
  rope: z.infer<typeof ropeSchema>,
  refuse: (setting: string) => void,
): Llama3Scaling | undefined {
  const kind = rope.rope_type ?? rope.type ?? 'default'
  if (kind === 'default') return undefined
  const { factor, low_freq_factor: low, high_freq_factor: high } = rope
  const original = rope.original_max_position_embeddings
  if (
    kind !== 'llama3' ||
    factor === undefined ||
    low === undefined ||
    high === undefined ||
    original === undefined
  ) {
    refuse(`rope_scaling ${kind}`)
    return undefined
  }
  return {
    factor,
    lowFrequencyFactor: low,
    highFrequencyFactor: high,
    originalContextTokens: original,
  }
}
