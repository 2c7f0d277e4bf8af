/**
 * A Llama forward pass written out plainly, in f64, one token at a time: what the engine's graphs are
 * compared with.
 */
import type { ModelConfig } from '../model-config.js'
import type { WeightSource } from '../weight-source.js'

/** Logits after the last of `tokens`. */
export function referenceLogits(
  config: ModelConfig,
  weights: WeightSource,
  tokens: readonly number[],
): Float64Array {
  const { hiddenSize, heads, kvHeads, headDim, layers } = config
  const matrix = (name: string, rows: number, columns: number) => {
    const values = new Float32Array(rows * columns)
    weights.read(name, [rows, columns], values)
    return (x: ArrayLike<number>) =>
      Float64Array.from({ length: rows }, (_, row) => {
        let sum = 0
        for (let i = 0; i < columns; i++) sum += (values[row * columns + i] ?? 0) * (x[i] ?? 0)
        return sum
      })
  }
  const vector = (name: string, size: number) => {
    const values = new Float32Array(size)
    weights.read(name, [size], values)
    return values
  }
  const norm = (x: Float64Array, gamma: Float32Array) => {
    const scale =
      1 / Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length + config.normEpsilon)
    return x.map((value, i) => value * scale * (gamma[i] ?? 0))
  }
  const rotate = (x: Float64Array, position: number) => {
    for (let start = 0; start < x.length; start += headDim) {
      for (let i = 0; i < headDim / 2; i++) {
        const angle = position * config.ropeTheta ** ((-2 * i) / headDim)
        const a = x[start + i] ?? 0
        const b = x[start + i + headDim / 2] ?? 0
        x[start + i] = a * Math.cos(angle) - b * Math.sin(angle)
        x[start + i + headDim / 2] = b * Math.cos(angle) + a * Math.sin(angle)
      }
    }
    return x
  }
  const embed = weights.rows('model.embed_tokens.weight', [config.vocabularySize, hiddenSize])
  let xs = tokens.map((token) => {
    const row = new Float32Array(hiddenSize)
    embed(token, row)
    return Float64Array.from(row)
  })
  for (let layer = 0; layer < layers; layer++) {
    const at = (name: string) => `model.layers.${layer}.${name}.weight`
    const project = (name: string, count: number) => {
      const product = matrix(at(`self_attn.${name}`), count * headDim, hiddenSize)
      const bias = config.qkvBias
        ? vector(`model.layers.${layer}.self_attn.${name}.bias`, count * headDim)
        : new Float32Array(count * headDim)
      return (x: Float64Array) => product(x).map((value, i) => value + (bias[i] ?? 0))
    }
    const headNorm = (name: string) => {
      if (!config.qkNorm) return (x: Float64Array) => x
      const gamma = vector(at(`self_attn.${name}`), headDim)
      return (x: Float64Array) =>
        Float64Array.from(
          Array.from({ length: x.length / headDim }, (_, head) => [
            ...norm(x.slice(head * headDim, (head + 1) * headDim), gamma),
          ]).flat(),
        )
    }
    const [normQ, normK] = [headNorm('q_norm'), headNorm('k_norm')]
    const window = config.slidingWindow?.layers[layer] ? config.slidingWindow.tokens : tokens.length
    const [toQ, toK, toV] = [project('q_proj', heads), project('k_proj', kvHeads), project('v_proj', kvHeads)]
    const inputNorm = vector(at('input_layernorm'), hiddenSize)
    const normed = xs.map((x) => norm(x, inputNorm))
    const q = normed.map((x, position) => rotate(normQ(toQ(x)), position))
    const k = normed.map((x, position) => rotate(normK(toK(x)), position))
    const v = normed.map(toV)
    const toOutput = matrix(at('self_attn.o_proj'), hiddenSize, heads * headDim)
    const middle = xs.map((x, position) => {
      const attended = new Float64Array(heads * headDim)
      for (let head = 0; head < heads; head++) {
        const kvStart = Math.floor(head / (heads / kvHeads)) * headDim
        const first = Math.max(0, position + 1 - window)
        const scores = k.slice(first, position + 1).map((key) => {
          let sum = 0
          for (let d = 0; d < headDim; d++) {
            sum += (q[position]?.[head * headDim + d] ?? 0) * (key[kvStart + d] ?? 0)
          }
          return sum / Math.sqrt(headDim)
        })
        const best = Math.max(...scores)
        const powers = scores.map((score) => Math.exp(score - best))
        const total = powers.reduce((sum, power) => sum + power, 0)
        for (const [i, power] of powers.entries()) {
          for (let d = 0; d < headDim; d++) {
            const at = head * headDim + d
            attended[at] = (attended[at] ?? 0) + (power / total) * (v[first + i]?.[kvStart + d] ?? 0)
          }
        }
      }
      const delta = toOutput(attended)
      return x.map((value, i) => value + (delta[i] ?? 0))
    })
    const mlpNorm = vector(at('post_attention_layernorm'), hiddenSize)
    const gate = matrix(at('mlp.gate_proj'), config.intermediateSize, hiddenSize)
    const up = matrix(at('mlp.up_proj'), config.intermediateSize, hiddenSize)
    const down = matrix(at('mlp.down_proj'), hiddenSize, config.intermediateSize)
    xs = middle.map((x) => {
      const input = norm(x, mlpNorm)
      const ups = up(input)
      const inner = gate(input).map((value, i) => (value / (1 + Math.exp(-value))) * (ups[i] ?? 0))
      const delta = down(inner)
      return x.map((value, i) => value + (delta[i] ?? 0))
    })
  }
  const head = config.tiedEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight'
  const last = xs.at(-1) ?? new Float64Array(hiddenSize)
  return matrix(head, config.vocabularySize, hiddenSize)(norm(last, vector('model.norm.weight', hiddenSize)))
}
