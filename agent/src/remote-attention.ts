/**
 * The decoding device's end of one Attend stream: asks another device for one layer's attention at a
 * time, and takes its word only where it has the right form.
 *
 * Invariants:
 * R1 Every `ask` settles: with the answer to its own query, or with one error, at the latest at the
 *    deadline. Whatever ends the stream ends all that waits, and what is asked later.
 * R2 Answers come in the order of the queries; anything else is damage.
 * R3 Errors name the attending device, so that the coordinator knows whom to avoid, unless this side gave up.
 */
import type {
  PartialAttention,
  RemoteAnswer,
  RemoteAttention,
  RemoteQuery,
} from '@kvasir/engine/device-driver'
import {
  type AttendAnswer,
  AttendMode,
  type AttendOpen,
  type AttendReady,
  type AttendRequest,
  type AttendResponse,
  type MemoryServiceClient,
} from '@kvasir/proto/kvasir/memory/v1/memory'
import { type Deferred, deferred } from '@kvasir/runtime/deferred'
import {
  CancelledError,
  CorruptDataError,
  DeadlineError,
  KvasirError,
  UnreachableError,
} from '@kvasir/runtime/errors'
import { type BidiCall, callBidi } from '@kvasir/runtime/rpc-client'
import { bytesOf, floatsOf, uintsOf } from './attend-bytes.js'

export interface RemoteAttentionOptions {
  readonly client: MemoryServiceClient
  /** The attending device. */
  readonly deviceId: string
  readonly open: AttendOpen
  readonly model: { readonly kvHeads: number; readonly headDim: number }
  /** Longest wait for one answer. */
  readonly attendMs: number
}

/** What frames a message: HTTP/2's and gRPC's headers and the fields' tags, within a few bytes. */
const FRAMING_BYTES = 32

interface Asked {
  readonly id: bigint
  readonly query: RemoteQuery
  readonly answer: Deferred<RemoteAnswer>
  readonly timer: NodeJS.Timeout
}

export class RemoteAttentionCall implements RemoteAttention {
  readonly pages: number
  readonly mode: 'partial' | 'indices'
  /** The attending device has the pages. Rejects where the stream ends before. */
  readonly ready: Promise<AttendReady>
  /** Resolves with what ended the stream, unless `close` did. */
  readonly lost: Promise<KvasirError>
  private readonly call: BidiCall<AttendRequest, AttendResponse>
  private readonly asked: Asked[] = []
  private readonly readiness: Deferred<AttendReady> = deferred()
  private readonly loss: Deferred<KvasirError> = deferred()
  private lastId = 0n
  private failure: KvasirError | undefined

  constructor(private readonly options: RemoteAttentionOptions) {
    const { client, open } = options
    this.pages = open.pages
    this.mode = open.mode === AttendMode.PARTIAL ? 'partial' : 'indices'
    this.ready = this.readiness.promise
    this.lost = this.loss.promise
    this.call = callBidi(client, 'attend')
    this.say({ message: { $case: 'open', value: open } })
    void this.read()
  }

  ask(query: RemoteQuery): Promise<RemoteAnswer> {
    if (this.failure !== undefined) return Promise.reject(this.failure)
    this.lastId += 1n
    const id = this.lastId
    const timer = setTimeout(() => this.late(query.layer), this.options.attendMs)
    const answer: Deferred<RemoteAnswer> = deferred()
    this.asked.push({ id, query, answer, timer })
    const { layer, pages } = query
    const value = { id, layer, pages, q: bytesOf(query.q), rivals: bytesOf(query.rivals) }
    this.say({ message: { $case: 'query', value } })
    return answer.promise
  }

  /** The sequence is over: the other device frees what it holds for it. */
  close(): void {
    const { deviceId } = this.options
    this.end(new CancelledError(`The attention on device ${deviceId} is over.`, { ids: { deviceId } }))
  }

  private say(request: AttendRequest): void {
    this.call.send(request).catch((thrown: unknown) => this.lose(thrown))
  }

  private async read(): Promise<void> {
    try {
      for await (const { message } of this.call.messages) {
        if (message?.$case === 'ready') this.readiness.resolve(message.value)
        else if (message?.$case === 'answer') this.answered(message.value)
        else throw new CorruptDataError('A message of the attending device is empty')
      }
      throw new CancelledError('the stream ended')
    } catch (thrown) {
      this.lose(thrown)
    }
  }

  private answered(answer: AttendAnswer): void {
    const next = this.asked.shift()
    if (next === undefined || answer.id !== next.id) {
      if (next !== undefined) this.asked.unshift(next)
      throw new CorruptDataError(`Answer ${answer.id} came out of order`)
    }
    clearTimeout(next.timer)
    try {
      next.answer.resolve(this.checked(next.query, answer))
    } catch (thrown) {
      this.asked.unshift(next)
      throw thrown
    }
  }

  /** Throws CorruptDataError where the answer cannot be one to the query. */
  private checked({ q, rivals }: RemoteQuery, answer: AttendAnswer): RemoteAnswer {
    const { kvHeads, headDim } = this.options.model
    const chosen = Uint32Array.from(answer.chosen)
    const counted = chosen.length === kvHeads && chosen.every((count) => count <= this.pages)
    if (!counted) throw new CorruptDataError(`Answer ${answer.id} has no count of pages for each KV head`)
    const payload = q.byteLength + rivals.byteLength + answer.pages.length + answer.output.length
    const { relevancyUs, retrievalUs, applyUs } = answer
    const figures = {
      chosen,
      relevancyUs,
      retrievalUs,
      applyUs,
      wireBytes: payload + answer.max.length + answer.sum.length + 2 * FRAMING_BYTES,
    }
    if (this.mode === 'indices') {
      const pages = uintsOf(answer.pages)
      if (!isChoice(chosen, pages, this.pages)) {
        throw new CorruptDataError(`Answer ${answer.id} names pages that were not to be chosen from`)
      }
      return { ...figures, pages }
    }
    const partial: PartialAttention = {
      output: floatsOf(answer.output),
      max: floatsOf(answer.max),
      sum: floatsOf(answer.sum),
    }
    const heads = q.length / headDim
    if (partial.output.length !== q.length || partial.max.length !== heads || partial.sum.length !== heads) {
      throw new CorruptDataError(`Answer ${answer.id} has not the size of its query`)
    }
    return { ...figures, partial }
  }

  private late(layer: number): void {
    const { attendMs } = this.options
    this.lose(new DeadlineError(`no answer for layer ${layer} within ${attendMs} ms`))
  }

  private lose(thrown: unknown): void {
    if (this.failure !== undefined) return
    const error = this.peerError(KvasirError.from(thrown))
    this.end(error)
    this.loss.resolve(error)
  }

  private end(error: KvasirError): void {
    if (this.failure !== undefined) return
    this.failure = error
    this.readiness.reject(error)
    for (const { answer, timer } of this.asked.splice(0)) {
      clearTimeout(timer)
      answer.reject(error)
    }
    this.call.cancel()
  }

  private peerError(error: KvasirError): KvasirError {
    const { deviceId, open } = this.options
    const ids = { deviceId, requestId: open.requestId, sourceCode: error.code }
    if (error instanceof CorruptDataError) {
      const message = `${error.message} (from device ${deviceId}); place the request anew.`
      return new CorruptDataError(message, { ids, cause: error })
    }
    const message = `Device ${deviceId} could not attend to the sequence (${error.message}); place the request anew.`
    return new UnreachableError(message, { ids, cause: error })
  }
}

/** Whether head after head `chosen` pages follow, ascending, each below `count`. */
function isChoice(chosen: Uint32Array, pages: Uint32Array, count: number): boolean {
  let at = 0
  for (const length of chosen) {
    let last = -1
    for (const end = at + length; at < end; at += 1) {
      const page = pages[at]
      if (page === undefined || page <= last || page >= count) return false
      last = page
    }
  }
  return at === pages.length
}
