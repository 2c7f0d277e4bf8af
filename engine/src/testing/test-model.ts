/** Writes small models with random weights as Hugging Face folders, for tests of shapes that no bundled model has. */
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface TestTensor {
  readonly name: string
  readonly type: string
  readonly shape: readonly number[]
  readonly bytes: Uint8Array
}

/** The bytes of a safetensors file. */
export function safetensorsBytes(tensors: readonly TestTensor[]): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let offset = 0
  for (const { name, type, shape, bytes } of tensors) {
    header[name] = { dtype: type, shape, data_offsets: [offset, offset + bytes.length] }
    offset += bytes.length
  }
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  return new Uint8Array(Buffer.concat([length, json, ...tensors.map(({ bytes }) => bytes)]))
}

export const testConfig = {
  architectures: ['LlamaForCausalLM'],
  hidden_act: 'silu',
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 32,
  intermediate_size: 96,
  vocab_size: 300,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  max_position_embeddings: 2048,
  tie_word_embeddings: true,
  sliding_window: null as number | null,
  use_sliding_window: false,
  max_window_layers: 0,
}

/** All tensors of a model with this configuration, weights from a fixed seed, as F32. */
export function testTensors(config: typeof testConfig): TestTensor[] {
  const { hidden_size: hidden, num_attention_heads: heads, num_key_value_heads: kvHeads } = config
  const { head_dim: dim, intermediate_size: inner, vocab_size: vocabulary } = config
  let state = 12_345
  const random = (name: string, shape: readonly number[], gain = 1): TestTensor => {
    const values = new Float32Array(shape.reduce((product, size) => product * size, 1))
    const spread = shape.length === 1 ? 0.2 : gain / Math.sqrt(shape[1] ?? 1)
    for (let i = 0; i < values.length; i++) {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      values[i] = (state / 2 ** 32 - 0.5) * 3.4 * spread + (name.endsWith('norm.weight') ? 1 : 0)
    }
    return { name, type: 'F32', shape, bytes: new Uint8Array(values.buffer) }
  }
  const tensors = [random('model.embed_tokens.weight', [vocabulary, hidden], Math.sqrt(hidden))]
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const at = (name: string) => `model.layers.${layer}.${name}.weight`
    tensors.push(
      random(at('input_layernorm'), [hidden]),
      random(at('self_attn.q_proj'), [heads * dim, hidden], 2),
      random(at('self_attn.k_proj'), [kvHeads * dim, hidden], 2),
      random(at('self_attn.v_proj'), [kvHeads * dim, hidden]),
      random(at('self_attn.o_proj'), [hidden, heads * dim]),
      random(at('post_attention_layernorm'), [hidden]),
      random(at('mlp.gate_proj'), [inner, hidden]),
      random(at('mlp.up_proj'), [inner, hidden]),
      random(at('mlp.down_proj'), [hidden, inner]),
    )
    if (config.architectures[0] === 'Qwen2ForCausalLM') {
      for (const [name, count] of [
        ['q', heads],
        ['k', kvHeads],
        ['v', kvHeads],
      ] as const) {
        tensors.push(random(`model.layers.${layer}.self_attn.${name}_proj.bias`, [count * dim]))
      }
    }
    if (config.architectures[0] === 'Qwen3ForCausalLM') {
      tensors.push(random(at('self_attn.q_norm'), [dim]), random(at('self_attn.k_norm'), [dim]))
    }
  }
  tensors.push(random('model.norm.weight', [hidden]))
  if (!config.tie_word_embeddings) tensors.push(random('lm_head.weight', [vocabulary, hidden]))
  return tensors
}

/** Makes the folder in a new temporary one and returns its path. */
export function writeTestModel(
  changes: Partial<typeof testConfig> = {},
  tensorsOf: (config: typeof testConfig) => readonly TestTensor[] = testTensors,
): string {
  const config = { ...testConfig, ...changes }
  const folder = join(mkdtempSync(join(tmpdir(), 'kvasir-test-model-')), 'test-model')
  mkdirSync(folder)
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  writeFileSync(join(folder, 'model.safetensors'), safetensorsBytes(tensorsOf(config)))
  return folder
}
