/** How this engine uses ONNX Runtime: the options of every session, and tensors in and out. */
import { type InferenceSession, Tensor } from 'onnxruntime-node'

/** `threads`: of one call. */
export function sessionOptions(threads: number): InferenceSession.SessionOptions {
  return {
    executionProviders: ['cpu'],
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
