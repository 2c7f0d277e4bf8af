/**
 * The best that ONNX Runtime does on this machine with the engine's own session options: one row times
 * a large f32 matrix, where memory is the limit, and many rows, where arithmetic is. Matrices are well
 * beyond any cache, and the best of several shapes counts, so that the limit is the machine's and not one
 * shape's.
 */
import { availableParallelism } from 'node:os'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { STEP_ROWS_MAX, THREADS_MAX } from './limits.js'
import { GraphBuilder, WEIGHTS_PATH } from './onnx-graph.js'
import { sessionOptions } from './ort-session.js'

/** Rows and columns of weights, 256 MiB each. */
const SHAPES = [
  [65_536, 1_024],
  [16_384, 4_096],
  [8_192, 8_192],
] as const
const VECTOR_RUNS = 7
const MATRIX_RUNS = 2

interface Matrix {
  readonly rows: number
  readonly columns: number
  readonly session: InferenceSession
}

export class MachineLimit {
  readonly #matrices: readonly Matrix[]

  private constructor(matrices: readonly Matrix[]) {
    this.#matrices = matrices
  }

  static async create(): Promise<MachineLimit> {
    const matrices: Matrix[] = []
    for (const [rows, columns] of SHAPES) {
      const values = new Float32Array(rows * columns)
      for (let i = 0; i < values.length; i++) values[i] = ((i * 7919) % 1_000) / 1_000 - 0.5
      const graph = new GraphBuilder()
      graph.input('x', 'float32', ['rows', columns])
      graph.node('FusedMatMul', ['x', graph.weights('w', 'float32', [rows, columns], 0)], ['y'], {
        transB: 1,
      })
      graph.output('y', ['rows', rows])
      const session = await InferenceSession.create(graph.build('limit'), {
        ...sessionOptions(Math.min(availableParallelism(), THREADS_MAX)),
        externalData: [{ path: WEIGHTS_PATH, data: new Uint8Array(values.buffer) }],
      })
      matrices.push({ rows, columns, session })
    }
    return new MachineLimit(matrices)
  }

  /** Bytes of weights a second. */
  vectorBytesPerS(): Promise<number> {
    return this.#best(1, VECTOR_RUNS, ({ rows, columns }) => rows * columns * 4)
  }

  /** Floating point operations a second, with as many rows as a step may have. */
  matrixFlopPerS(): Promise<number> {
    return this.#best(STEP_ROWS_MAX, MATRIX_RUNS, ({ rows, columns }) => 2 * STEP_ROWS_MAX * rows * columns)
  }

  async #best(rows: number, runs: number, workOf: (matrix: Matrix) => number): Promise<number> {
    let best = 0
    for (const matrix of this.#matrices) {
      const x = new Tensor('float32', new Float32Array(rows * matrix.columns).fill(0.5), [
        rows,
        matrix.columns,
      ])
      for (let run = 0; run < runs; run++) {
        const begin = performance.now()
        await matrix.session.run({ x })
        best = Math.max(best, workOf(matrix) / ((performance.now() - begin) / 1000))
      }
    }
    return best
  }
}
