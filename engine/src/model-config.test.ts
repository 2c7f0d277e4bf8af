import { describe, expect, it } from 'vitest'
import { parseModelConfig } from './model-config.js'
import { testConfig } from './testing/test-model.js'

const parse = (changes: object) => parseModelConfig({ ...testConfig, ...changes }, 'test-model')

describe('config.json', () => {
  it('is read with the defaults of its family', () => {
    expect(
      parse({ head_dim: undefined, num_key_value_heads: undefined, rope_theta: undefined }),
    ).toMatchObject({
      headDim: 16,
      kvHeads: 4,
      ropeTheta: 10_000,
      tiedEmbeddings: true,
      qkvBias: false,
      stopTokens: [],
    })
    expect(parse({ tie_word_embeddings: undefined, eos_token_id: [1, 2] })).toMatchObject({
      tiedEmbeddings: false,
      stopTokens: [1, 2],
    })
  })

  it('may scale rotary positions as Llama 3 does, under the old and the new name', () => {
    const scaling = {
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    }
    const expected = {
      kind: 'llama3',
      factor: 8,
      lowFrequencyFactor: 1,
      highFrequencyFactor: 4,
      originalContextTokens: 8192,
    }
    expect(parse({ rope_scaling: { ...scaling, rope_type: 'llama3' } }).ropeScaling).toEqual(expected)
    const renamed = parse({ rope_parameters: { ...scaling, rope_type: 'llama3', rope_theta: 5e5 } })
    expect(renamed).toMatchObject({ ropeScaling: expected, ropeTheta: 5e5 })
    expect(parse({ rope_scaling: { rope_type: 'default' } }).ropeScaling).toBeUndefined()
  })

  it('may stretch all positions alike', () => {
    const scaling = parse({ rope_scaling: { type: 'linear', factor: 4 } }).ropeScaling
    expect(scaling).toEqual({ kind: 'linear', factor: 4 })
  })

  it('tells what its family has: biases of Qwen2, norms of Qwen3', () => {
    expect(parse({})).toMatchObject({ qkvBias: false, qkNorm: false })
    expect(parse({ architectures: ['MistralForCausalLM'] })).toMatchObject({ qkvBias: false, qkNorm: false })
    expect(parse({ architectures: ['Qwen2ForCausalLM'] })).toMatchObject({ qkvBias: true, qkNorm: false })
    const qwen3 = { architectures: ['Qwen3ForCausalLM'], head_dim: undefined, attention_bias: false }
    expect(parse(qwen3)).toMatchObject({ qkvBias: false, qkNorm: true, headDim: 128 })
  })

  const mistral = { architectures: ['MistralForCausalLM'] }
  const qwen2 = { architectures: ['Qwen2ForCausalLM'] }
  const qwen3 = { architectures: ['Qwen3ForCausalLM'] }
  it.each([
    ['in all layers of Mistral', { ...mistral, sliding_window: 512 }, 512, [true, true]],
    [
      'as Mistral means it where it is not named',
      { ...mistral, sliding_window: undefined, max_position_embeddings: 32_768 },
      4096,
      [true, true],
    ],
    [
      'from one layer of Qwen2 on',
      { ...qwen2, sliding_window: 64, use_sliding_window: true, max_window_layers: 1 },
      64,
      [false, true],
    ],
    [
      'in the layers that Qwen3 lists',
      {
        ...qwen3,
        sliding_window: 64,
        use_sliding_window: true,
        layer_types: ['sliding_attention', 'full_attention'],
      },
      64,
      [true, false],
    ],
  ])('limits how far attention looks back %s', (_, changes, tokens, layers) => {
    expect(parse(changes).slidingWindow).toEqual({ tokens, layers })
  })

  it.each([
    ['is null', { ...mistral, sliding_window: null }],
    ['is as long as the context', { ...mistral, sliding_window: 2048 }],
    ['is switched off', { ...qwen2, sliding_window: 64, use_sliding_window: false, max_window_layers: 0 }],
    [
      'begins behind the last layer',
      { ...qwen2, sliding_window: 64, use_sliding_window: true, max_window_layers: 2 },
    ],
    ['is of a family that has none', { sliding_window: 64 }],
  ])('does not where the window %s', (_, changes) => {
    expect(parse(changes).slidingWindow).toBeUndefined()
  })

  it.each([
    [
      { architectures: ['GPT2LMHeadModel'] },
      'architecture GPT2LMHeadModel, which is not supported; use one of LlamaForCausalLM',
    ],
    [
      { architectures: ['MixtralForCausalLM'], num_local_experts: 8 },
      'mixture of experts (MixtralForCausalLM)',
    ],
    [
      { architectures: ['Qwen3MoeForCausalLM'], num_experts: 128 },
      'mixture of experts (Qwen3MoeForCausalLM)',
    ],
    [{ hidden_act: 'gelu' }, 'hidden_act gelu'],
    [{ attention_bias: true }, 'attention_bias'],
    [{ ...qwen3, attention_bias: true }, 'attention_bias'],
    [{ mlp_bias: true }, 'mlp_bias'],
    [{ quantization_config: { bits: 4 } }, 'quantization_config'],
    [{ partial_rotary_factor: 0.5 }, 'partial_rotary_factor'],
    [{ rope_parameters: { rope_theta: 1e4, partial_rotary_factor: 0.5 } }, 'partial_rotary_factor'],
    [{ rope_scaling: { type: 'yarn', factor: 4 } }, 'rope_scaling yarn'],
    [{ rope_scaling: { rope_type: 'llama3', factor: 8 } }, 'rope_scaling llama3'],
    [{ ...mistral, sliding_window: 0.5 }, 'sliding_window 0.5'],
    [
      { ...qwen3, sliding_window: 8, use_sliding_window: true, layer_types: ['chunked_attention', 'x'] },
      'layer_types chunked_attention',
    ],
    [{ head_dim: 256 }, 'head_dim 256'],
  ])('is refused by name: %o', (changes, message) => {
    expect(() => parse(changes)).toThrow(message)
    expect(() => parse(changes)).toThrow(expect.objectContaining({ code: 'unsupported' }))
  })

  it.each([
    [{ hidden_size: 'big' }, 'hidden_size'],
    [{ architectures: undefined }, 'architectures'],
    [{ num_key_value_heads: 3 }, 'head counts that do not divide'],
  ])('that is wrong is named: %o', (changes, message) => {
    expect(() => parse(changes)).toThrow(message)
    expect(() => parse(changes)).toThrow(expect.objectContaining({ code: 'invalid_input' }))
  })
})
