/**
 * Whether this machine has the memory that loading a model takes, asked before anything is loaded: a process that
 * takes more than there is would be killed, and others with it.
 */
import { availableMemoryBytes } from '@kvasir/runtime/available-memory'
import { OverloadedError } from '@kvasir/runtime/errors'
import { sizeText } from '@kvasir/runtime/size-text'
import { kvBlockBytes, pageBoundsBytes } from './kv-format.js'
import { STEP_ROWS_MAX } from './limits.js'
import type { ModelConfig } from './model-config.js'
import type { Numerics } from './numerics.js'
import { weightSizes } from './weight-sizes.js'
import type { WeightSource } from './weight-source.js'

export interface MemoryNeed {
  readonly weightBytes: number
  /** KV of so many blocks, with their bounds. */
  readonly poolBytes: number
  /** What a load or a step takes beside them. */
  readonly workingBytes: number
}

/** ONNX Runtime itself, its sessions, the thread. */
const RUNTIME_BYTES = 200_000_000
/** Attention's scores are cut to 16 MB, of which three copies live at a time. */
const SCORES_BYTES = 3 << 24

/** Throws as reading the weights does. */
export function memoryNeed(
  config: ModelConfig,
  source: WeightSource,
  numerics: Numerics,
  kvBlocksMax: number,
): MemoryNeed {
  const { residentBytes, largestGraphBytes } = weightSizes(config, source, numerics.weights)
  const rotaryBytes = config.contextTokensMax * config.headDim * 4
  const rowBytes = (3 * config.intermediateSize + 4 * config.hiddenSize) * 4
  return {
    weightBytes: residentBytes,
    poolBytes: kvBlocksMax * poolBytesOfBlock(config, numerics),
    // Weights are read into a buffer that ONNX Runtime copies; a step comes after that.
    workingBytes:
      RUNTIME_BYTES + rotaryBytes + Math.max(2 * largestGraphBytes, STEP_ROWS_MAX * rowBytes + SCORES_BYTES),
  }
}

/** Of a block over all layers, with its bounds. */
export function poolBytesOfBlock(config: ModelConfig, { pool }: Numerics): number {
  return config.layers * (kvBlockBytes(config, pool) + pageBoundsBytes(config))
}

/** `name`: the model's. Throws OverloadedError, which says how much is needed and how much is lacking. */
export function checkMemory(
  name: string,
  { weights }: Numerics,
  { weightBytes, poolBytes, workingBytes }: MemoryNeed,
  availableBytes = availableMemoryBytes(),
): void {
  const bytes = weightBytes + poolBytes + workingBytes
  if (bytes <= availableBytes) return
  const remedy = weights === 'f32' ? 'a smaller model, or one with weights in 4 bits' : 'a smaller model'
  throw new OverloadedError(
    `The model ${name} needs ${sizeText(bytes)} of memory: ${sizeText(weightBytes)} for weights in ${weights}, ${sizeText(poolBytes)} for KV and ${sizeText(workingBytes)} to work with; ${sizeText(availableBytes)} are available here, so ${sizeText(bytes - availableBytes)} are lacking. Use ${remedy}, give its KV fewer bytes, or free memory.`,
  )
}
