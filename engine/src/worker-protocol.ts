/**
 * Messages between the driver and its worker thread, over one MessagePort, in order.
 *
 * Every call has an id and gets one `done` or `failed`; `cancel` and `layer` name the step that they belong
 * to, and so does `ask`, which an `answer` follows: a function cannot go to the thread, so the driver asks
 * the other device for it. `close` is the last message, after which the thread ends by itself.
 */
import { type ErrorCode, errorOf, KvasirError } from '@kvasir/runtime/errors'
import type {
  LoadedModelFacts,
  LoadModelOptions,
  ModelOptions,
  RemoteAnswer,
  RemoteAttention,
  RemoteQuery,
  StepResult,
  StepSequence,
} from './device-driver.js'
import type { AttentionKernelName, KernelInput, KernelName, SearchKernelName } from './kernels.js'
import type { ComputeOptions } from './ort-session.js'

/** A sequence as it goes to the thread. */
export type SentSequence = Omit<StepSequence, 'remote'> & {
  readonly remote?: Pick<RemoteAttention, 'pages' | 'mode'>
}

/** A step's result as it comes from the thread. */
export type SentStepResult = Omit<StepResult, 'failed'> & {
  readonly failed: readonly { readonly sequence: number; readonly error: PlainError }[]
}

/** A kernel with its input. */
type KernelCall<Names extends KernelName> = {
  readonly [Name in Names]: { readonly name: Name; readonly input: KernelInput<Name> }
}[Names]
export type AttentionCall = KernelCall<AttentionKernelName>
export type SearchCall = KernelCall<SearchKernelName>

/** What is asked of the device, or of one of its models, which has the number that `load` gave it. */
export type WorkerCall =
  | { readonly kind: 'inspect'; readonly options: ModelOptions }
  | { readonly kind: 'load'; readonly options: LoadModelOptions; readonly compute: ComputeOptions }
  | { readonly kind: 'search'; readonly kernel: SearchCall }
  | ({ readonly model: number } & ModelCall)

export type ModelCall =
  | { readonly kind: 'step'; readonly sequences: readonly SentSequence[] }
  | {
      readonly kind: 'read'
      readonly layer: number
      readonly blocks: Uint32Array
      /** Memory that comes back with the blocks in it. */
      readonly room: ArrayBuffer | undefined
    }
  | { readonly kind: 'read-bounds'; readonly layer: number; readonly blocks: Uint32Array }
  | {
      readonly kind: 'write' | 'write-bounds'
      readonly layer: number
      readonly blocks: Uint32Array
      readonly data: Uint8Array
    }
  | { readonly kind: 'copy'; readonly from: Uint32Array; readonly to: Uint32Array }
  | { readonly kind: 'kernel'; readonly kernel: AttentionCall }
  | { readonly kind: 'stats' }
  | { readonly kind: 'unload' }

/** The answer to `load`. */
export interface LoadedInWorker {
  readonly model: number
  readonly facts: LoadedModelFacts
}

export interface CallMessage {
  readonly id: number
  readonly call: WorkerCall
}

export type ToWorker =
  | CallMessage
  | { readonly kind: 'answer'; readonly ask: number; readonly answer: RemoteAnswer | PlainError }
  /** Ends the step of this call, also where it has not begun. */
  | { readonly kind: 'cancel'; readonly id: number }
  | { readonly kind: 'close' }

export type FromWorker =
  | { readonly kind: 'done'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'failed'; readonly id: number; readonly error: PlainError }
  /** `id`: of the step's call. */
  | { readonly kind: 'layer'; readonly id: number; readonly layer: number }
  /** `sequence`: its place in the batch of the step. */
  | {
      readonly kind: 'ask'
      readonly id: number
      readonly ask: number
      readonly sequence: number
      readonly query: RemoteQuery
    }

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

/**
 * Arrays that are windows into larger buffers, as copies of their own: a message would carry the whole
 * buffer. What is in plain objects and lists is looked at too.
 */
export function compact<T>(value: T): T {
  return mapArrays(value, (array) => {
    if (array.byteLength === array.buffer.byteLength) return array
    // A Buffer's own slice() is a window too.
    return array instanceof Uint8Array ? new Uint8Array(array) : array.slice()
  }) as T
}

/** The buffers of all arrays in `value`, each once: to be given away, not copied. */
export function buffersOf(value: unknown): ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>()
  mapArrays(value, (array) => {
    if (array.buffer instanceof ArrayBuffer) buffers.add(array.buffer)
    return array
  })
  return [...buffers]
}

type NumberArray = Uint8Array | Uint32Array | Float32Array | Float64Array

function mapArrays(value: unknown, map: (array: NumberArray) => NumberArray): unknown {
  if (
    value instanceof Uint8Array ||
    value instanceof Uint32Array ||
    value instanceof Float32Array ||
    value instanceof Float64Array
  ) {
    return map(value)
  }
  if (Array.isArray(value)) return value.map((item) => mapArrays(item, map))
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype)
    return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, mapArrays(item, map)]))
}
