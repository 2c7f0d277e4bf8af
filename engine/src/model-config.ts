/**
 * What a model is: the sizes and constants of its config.json, checked.
 *
 * C1 A configuration that this engine would compute wrongly is refused by the name of the setting,
 *    never approximated.
 * Not the job of this file: finding the model (model-files.ts), reading weights (safetensors.ts).
 */
import { InvalidInputError, UnsupportedError } from '@kvasir/runtime/errors'
import { z } from 'zod'

/** All frequencies are divided by `factor`: positions are interpolated. */
export interface LinearScaling {
  readonly kind: 'linear'
  readonly factor: number
}

/** Frequency scaling of Llama 3.1 and later. */
export interface Llama3Scaling {
  readonly kind: 'llama3'
  readonly factor: number
  readonly lowFrequencyFactor: number
  readonly highFrequencyFactor: number
  readonly originalContextTokens: number
}

/** Each pair's frequency is divided by a factor of its own: how GGUF files write down any other scaling. */
export interface PairScaling {
  readonly kind: 'by-pair'
  /** One for each two dimensions of a head. */
  readonly factors: readonly number[]
}

/** Layers whose attention looks back a limited way. */
export interface SlidingWindow {
  /** Tokens that a query sees, its own included. */
  readonly tokens: number
  /** Of each layer, whether it is one of them. */
  readonly layers: readonly boolean[]
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
  readonly ropeScaling: LinearScaling | Llama3Scaling | PairScaling | undefined
  readonly contextTokensMax: number
  readonly tiedEmbeddings: boolean
  /** Whether the q, k and v projections have a bias (Qwen2). */
  readonly qkvBias: boolean
  /** Whether each head's q and k are normed before they get their positions (Qwen3). */
  readonly qkNorm: boolean
  /** Undefined where all layers see all tokens. */
  readonly slidingWindow: SlidingWindow | undefined
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
  partial_rotary_factor: z.number().nullish(),
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
  max_window_layers: z.number().int().nonnegative().nullish(),
  layer_types: z.array(z.string()).nullish(),
  partial_rotary_factor: z.number().nullish(),
  quantization_config: z.unknown().optional(),
})
type HuggingFaceConfig = z.infer<typeof configSchema>

interface Family {
  readonly qkvBias: boolean
  readonly qkNorm: boolean
  readonly window: 'never' | 'always' | 'by-layer'
  /** Head dimension where config.json names none; undefined: the hidden size divided among the heads. */
  readonly headDim?: number
}

const QWEN2: Family = { qkvBias: true, qkNorm: false, window: 'by-layer' }
const FAMILIES: Readonly<Record<string, Family>> = {
  LlamaForCausalLM: { qkvBias: false, qkNorm: false, window: 'never' },
  MistralForCausalLM: { qkvBias: false, qkNorm: false, window: 'always' },
  Qwen2ForCausalLM: QWEN2,
  Qwen3ForCausalLM: { qkvBias: false, qkNorm: true, window: 'by-layer', headDim: 128 },
}
/** What Mistral and Qwen mean where config.json does not name a window. */
const WINDOW_TOKENS_DEFAULT = 4096
const MAX_WINDOW_LAYERS_DEFAULT = 28

/** `name` says whose configuration it is, in messages. */
export function parseModelConfig(json: unknown, name: string): ModelConfig {
  const family = familyOf(json, name)
  const parsed = configSchema.safeParse(json)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw new InvalidInputError(
      `config.json of the model ${name} is not valid: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}; fetch the model again.`,
    )
  }
  const config = parsed.data
  const refuse = (setting: string): never => {
    throw new UnsupportedError(
      `The model ${name} needs ${setting}, which is not supported; use another model.`,
    )
  }
  if ((config.hidden_act ?? 'silu') !== 'silu') refuse(`hidden_act ${config.hidden_act}`)
  if (config.attention_bias === true && !family.qkvBias) refuse('attention_bias')
  if (config.mlp_bias === true) refuse('mlp_bias')
  if (config.quantization_config !== undefined && config.quantization_config !== null) {
    refuse('quantization_config')
  }
  const rope = config.rope_parameters ?? config.rope_scaling ?? undefined
  if ((rope?.partial_rotary_factor ?? config.partial_rotary_factor ?? 1) !== 1)
    refuse('partial_rotary_factor')

  const heads = config.num_attention_heads
  const kvHeads = config.num_key_value_heads ?? heads
  const headDim = config.head_dim ?? family.headDim ?? config.hidden_size / heads
  if (!Number.isInteger(headDim) || heads % kvHeads !== 0) {
    throw new InvalidInputError(
      `config.json of the model ${name} has head counts that do not divide; fetch the model again.`,
    )
  }
  if (headDim % 2 !== 0 || headDim > HEAD_DIM_MAX) refuse(`head_dim ${headDim}`)
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
    qkvBias: family.qkvBias,
    qkNorm: family.qkNorm,
    slidingWindow: slidingWindow(config, family, refuse),
    stopTokens: tokenIdList(config.eos_token_id),
  }
}

/** `eos_token_id` of config.json and generation_config.json: a number, a list, or nothing. */
export function tokenIdList(value: unknown): number[] {
  const parsed = tokenIds.safeParse(value)
  if (!parsed.success) return []
  return Array.isArray(parsed.data) ? parsed.data : [parsed.data]
}

/** The family of an architecture that this engine runs; anything else is refused by its name. */
function familyOf(json: unknown, name: string): Family {
  const named = z.looseObject({ architectures: z.array(z.string()) }).safeParse(json)
  const architecture = named.data?.architectures[0]
  if (named.data === undefined || architecture === undefined) {
    throw new InvalidInputError(
      `config.json of the model ${name} does not name its architecture under architectures; fetch the model again.`,
    )
  }
  const family = FAMILIES[architecture]
  if (family !== undefined) return family
  const isMixture = ['num_local_experts', 'num_experts', 'n_routed_experts'].some((key) => key in named.data)
  throw new UnsupportedError(
    isMixture
      ? `The model ${name} is a mixture of experts (${architecture}), which is not supported; use a dense one of ${Object.keys(FAMILIES).join(', ')}.`
      : `The model ${name} has the architecture ${architecture}, which is not supported; use one of ${Object.keys(FAMILIES).join(', ')}.`,
  )
}

/** As Hugging Face decides it: Mistral's layers all have the window, Qwen's where it is switched on, from one layer on. */
function slidingWindow(
  config: HuggingFaceConfig,
  { window }: Family,
  refuse: (setting: string) => never,
): SlidingWindow | undefined {
  const tokens = config.sliding_window === undefined ? WINDOW_TOKENS_DEFAULT : config.sliding_window
  const isUsed = window === 'always' || (window === 'by-layer' && config.use_sliding_window === true)
  // A window that the context fits in hides nothing.
  if (!isUsed || tokens === null || tokens >= config.max_position_embeddings) return undefined
  if (!Number.isInteger(tokens) || tokens < 1) refuse(`sliding_window ${tokens}`)
  const count = config.num_hidden_layers
  const firstLayer = window === 'always' ? 0 : (config.max_window_layers ?? MAX_WINDOW_LAYERS_DEFAULT)
  const layers = Array.from({ length: count }, (_, layer) => {
    const type = config.layer_types?.[layer]
    if (type === undefined) return layer >= firstLayer
    if (type !== 'sliding_attention' && type !== 'full_attention') refuse(`layer_types ${type}`)
    return type === 'sliding_attention'
  })
  return layers.includes(true) ? { tokens, layers } : undefined
}

function ropeScaling(
  rope: z.infer<typeof ropeSchema>,
  refuse: (setting: string) => never,
): LinearScaling | Llama3Scaling | undefined {
  const kind = rope.rope_type ?? rope.type ?? 'default'
  const { factor, low_freq_factor: low, high_freq_factor: high } = rope
  const original = rope.original_max_position_embeddings
  if (kind === 'default') return undefined
  if (kind === 'linear' && factor !== undefined) return { kind, factor }
  if (
    kind === 'llama3' &&
    factor !== undefined &&
    low !== undefined &&
    high !== undefined &&
    original !== undefined
  ) {
    return {
      kind,
      factor,
      lowFrequencyFactor: low,
      highFrequencyFactor: high,
      originalContextTokens: original,
    }
  }
  return refuse(`rope_scaling ${kind}`)
}
