/**
 * The machine's limit, measured between rounds of a bench by a process that is idle otherwise: a process has
 * one thread with ONNX Runtime, and that of the bench's own is the engine's.
 */
import { startMeasuringProcess } from './measuring-process.js'

export interface LimitRates {
  /** One row times a large matrix: bytes of the matrix. */
  readonly vectorBytesPerS: number
  /** Many rows times a large matrix. */
  readonly matrixFlopPerS: number
}

export interface MachineLimitProcess {
  measure(): Promise<LimitRates>
  close(): void
}

export async function startMachineLimit(): Promise<MachineLimitProcess> {
  const { measure, close } = await startMeasuringProcess<object, LimitRates>('limit-process')
  return { measure: () => measure({}), close }
}
