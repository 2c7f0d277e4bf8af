/** How this engine uses ONNX Runtime: the options of every session, and tensors in and out. */
import { type InferenceSession, Tensor } from 'onnxruntime-node'
import type { ExecutionProvider } from './execution-provider.js'

/** With what a model is computed. */
export interface ComputeOptions {
  /** Threads of one call into ONNX Runtime; by default one for a small model, else all cores, at most 16. */
  readonly threads?: number
  /** Of products with weights; the rest is computed on the processor. By default cpu. */
  readonly provider?: ExecutionProvider
}

/** Only errors: that some nodes of a graph stay on the processor is known. */
const LOG_ERRORS = 3

/** `threads`: of one call. */
export function sessionOptions(
  threads: number,
  provider: ExecutionProvider = 'cpu',
): InferenceSession.SessionOptions {
  return {
    executionProviders: [provider],
    ...(provider === 'cpu' ? {} : { logSeverityLevel: LOG_ERRORS }),
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    // Shapes change from step to step.
    enableMemPattern: false,
    // Each session would keep an arena of its own for the largest step it has seen.
    enableCpuMemArena: false,
    // Several processes share the cores: a thread that waits must not burn one.
    extra: { session: { intra_op: { allow_spinning: '0' } } },
  }
}

/** A shape, as graphs take it where only the caller knows it. */
export function shapeTensor(...sizes: number[]): Tensor {
  return new Tensor('int64', BigInt64Array.from(sizes, BigInt), [sizes.length])
}

/** The numbers of a result. */
export function floats(tensor: Tensor | undefined): Float32Array {
  if (tensor?.data instanceof Float32Array) return tensor.data
  throw new TypeError('a graph gave no f32 result')
}
