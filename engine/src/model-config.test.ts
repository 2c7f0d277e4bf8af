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
    const expected = { factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalContextTokens: 8192 }
    expect(parse({ rope_scaling: { ...scaling, rope_type: 'llama3' } }).ropeScaling).toEqual(expected)
    const renamed = parse({ rope_parameters: { ...scaling, rope_type: 'llama3', rope_theta: 5e5 } })
    expect(renamed).toMatchObject({ ropeScaling: expected, ropeTheta: 5e5 })
    expect(parse({ rope_scaling: { rope_type: 'default' } }).ropeScaling).toBeUndefined()
  })

  it('may be of Qwen2 or Mistral where they compute as Llama does', () => {
    expect(
      parse({ architectures: ['Qwen2ForCausalLM'], sliding_window: 1, use_sliding_window: false }),
    ).toMatchObject({ qkvBias: true })
    expect(parse({ architectures: ['MistralForCausalLM'], sliding_window: null }).qkvBias).toBe(false)
  })

  it.each([
    [{ architectures: ['GPT2LMHeadModel'] }, 'architecture GPT2LMHeadModel; use one of LlamaForCausalLM'],
    [{ hidden_act: 'gelu' }, 'hidden_act gelu'],
    [{ attention_bias: true }, 'attention_bias'],
    [{ mlp_bias: true }, 'mlp_bias'],
    [{ quantization_config: { bits: 4 } }, 'quantization_config'],
    [{ partial_rotary_factor: 0.5 }, 'partial_rotary_factor'],
    [{ rope_scaling: { type: 'yarn', factor: 4 } }, 'rope_scaling yarn'],
    [{ rope_scaling: { rope_type: 'llama3', factor: 8 } }, 'rope_scaling llama3'],
    [{ architectures: ['MistralForCausalLM'], sliding_window: 512 }, 'sliding_window'],
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
