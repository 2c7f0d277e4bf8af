/**
 * Queries that the engine's thread has asked for and whose answers are not here yet.
 *
 * Every one settles: with its answer, with the error that came in its place, or with CancelledError when
 * the step ends. An answer that comes after that is dropped.
 */
import { type Deferred, deferred } from '@kvasir/runtime/deferred'
import { CancelledError } from '@kvasir/runtime/errors'
import type { RemoteAnswer, RemoteQuery } from './device-driver.js'
import { type PlainError, revivedError } from './worker-protocol.js'

export class RemoteAsks {
  readonly #waiting = new Map<number, Deferred<RemoteAnswer>>()
  readonly #send: (ask: number, sequence: number, query: RemoteQuery) => void
  #last = 0

  constructor(send: (ask: number, sequence: number, query: RemoteQuery) => void) {
    this.#send = send
  }

  ask(sequence: number, query: RemoteQuery): Promise<RemoteAnswer> {
    const id = ++this.#last
    const waiting = deferred<RemoteAnswer>()
    this.#waiting.set(id, waiting)
    this.#send(id, sequence, query)
    return waiting.promise
  }

  answered(ask: number, answer: RemoteAnswer | PlainError): void {
    const waiting = this.#waiting.get(ask)
    this.#waiting.delete(ask)
    if ('code' in answer) waiting?.reject(revivedError(answer))
    else waiting?.resolve(answer)
  }

  cancel(): void {
    for (const { reject } of this.#waiting.values()) reject(new CancelledError('The step was cancelled.'))
    this.#waiting.clear()
  }
}
