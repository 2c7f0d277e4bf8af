/**
 * Tables of rotary position embeddings, `[positions, head dim / 2]`, computed as the reference does in f32.
 *
 * T1 A row depends on its position alone: a longer table begins with the shorter one.
 */
import type { LinearScaling, Llama3Scaling, ModelConfig } from './model-config.js'

export interface RotaryTables {
  readonly positions: number
  readonly cos: Float32Array
  readonly sin: Float32Array
}

export function rotaryTables(
  { headDim, ropeTheta, ropeScaling }: ModelConfig,
  positions: number,
): RotaryTables {
  const half = headDim / 2
  const cos = new Float32Array(positions * half)
  const sin = new Float32Array(positions * half)
  for (let i = 0; i < half; i++) {
    let frequency = Math.fround(1 / Math.fround(ropeTheta ** Math.fround((2 * i) / headDim)))
    if (ropeScaling?.kind === 'by-pair') frequency = Math.fround(frequency / (ropeScaling.factors[i] ?? 1))
    else if (ropeScaling !== undefined) frequency = Math.fround(scaledFrequency(frequency, ropeScaling))
    for (let position = 0; position < positions; position++) {
      const angle = Math.fround(position * frequency)
      cos[position * half + i] = Math.cos(angle)
      sin[position * half + i] = Math.sin(angle)
    }
  }
  return { positions, cos, sin }
}

/** Positions that the first tables have. */
const POSITIONS_MIN = 1024

/**
 * How many positions tables have that hold `needed`: they double, since few sequences ever fill a model's context, and a
 * GPU is given them with every call.
 */
export function tablePositions({ contextTokensMax }: ModelConfig, needed: number): number {
  return Math.min(contextTokensMax, 2 ** Math.ceil(Math.log2(Math.max(POSITIONS_MIN, needed))))
}

/**
 * Linear: all waves are stretched by `factor`. Llama 3: long waves are, short ones are kept, and those
 * between go over smoothly by how many times they fit into the original context.
 */
export function scaledFrequency(frequency: number, scaling: LinearScaling | Llama3Scaling): number {
  if (scaling.kind === 'linear') return frequency / scaling.factor
  const { factor, lowFrequencyFactor: low, highFrequencyFactor: high, originalContextTokens } = scaling
  const turns = (originalContextTokens * frequency) / (2 * Math.PI)
  if (turns < low) return frequency / factor
  if (turns > high) return frequency
  const smooth = (turns - low) / (high - low)
  return ((1 - smooth) * frequency) / factor + smooth * frequency
}
