/**
 * Messages between the driver and its worker thread, over one MessagePort, in order.
 *
 * Every call has an id and gets one `done` or `failed`; `cancel` and `layer` belong to the running step;
 * `close` is the last message, after which the thread ends by itself.
 */
import { type ErrorCode, errorOf, KvasirError } from '@kvasir/runtime/errors'
import type { LoadModelOptions, StepSequence } from './device-driver.js'

export type WorkerCall =
  | { readonly kind: 'load'; readonly options: LoadModelOptions; readonly threads: number | undefined }
  | { readonly kind: 'step'; readonly sequences: readonly StepSequence[] }
  | { readonly kind: 'read'; readonly layer: number; readonly blocks: Uint32Array }
  | {
      readonly kind: 'write'
      readonly layer: number
      readonly blocks: Uint32Array
      readonly data: Uint8Array
    }
  | { readonly kind: 'stats' }

export type ToWorker =
  | { readonly id: number; readonly call: WorkerCall }
  | { readonly kind: 'cancel' }
  | { readonly kind: 'close' }

export type FromWorker =
  | { readonly kind: 'done'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'failed'; readonly id: number; readonly error: PlainError }
  | { readonly kind: 'layer'; readonly layer: number }

/** An error as data, since classes do not survive the way between threads. */
export interface PlainError {
  readonly code: ErrorCode
  readonly message: string
  readonly param?: string
}

export function plainError(thrown: unknown): PlainError {
  const { code, message, param } = KvasirError.from(thrown)
  return param === undefined ? { code, message } : { code, message, param }
}

export function revivedError({ code, message, param }: PlainError): KvasirError {
  return errorOf(code, message, param === undefined ? {} : { param })
}
