/** Which tensor of a GGUF file is which of ours, and whose rows lie in another order. */

const WHOLE: Readonly<Record<string, string>> = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  lm_head: 'output',
}
const OF_LAYER: Readonly<Record<string, string>> = {
  input_layernorm: 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  post_attention_layernorm: 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}

/** GGUF's name of one of our tensors, such as `blk.3.attn_q.weight`. Throws RangeError for one that is none of ours. */
export function ggufTensorName(tensor: string): string {
  const dot = tensor.lastIndexOf('.')
  const [stem, kind] = [tensor.slice(0, dot), tensor.slice(dot + 1)]
  const whole = WHOLE[stem]
  if (whole !== undefined) return `${whole}.${kind}`
  const [, layer, rest] = /^model\.layers\.(\d+)\.(.+)$/.exec(stem) ?? []
  const part = rest === undefined ? undefined : OF_LAYER[rest]
  if (part === undefined) throw new RangeError(`no tensor of a model is called ${tensor}`)
  return `blk.${layer}.${part}.${kind}`
}

/**
 * Files of the architecture `llama` hold the rows of q and k so that rotary pairs stand side by side, where
 * Hugging Face has the two halves of a head one after the other.
 */
export function hasPairedRows(architecture: string, tensor: string): boolean {
  return architecture === 'llama' && /\.self_attn\.[qk]_proj\./.test(tensor)
}

/** The row of a file with paired rows that is our row `row`. */
export function pairedRow(row: number, headDim: number): number {
  const inHead = row % headDim
  const half = headDim / 2
  return row - inHead + 2 * (inHead % half) + (inHead < half ? 0 : 1)
}
