/**
 * Back-pressure over grpc-js's Node streams, the same on client and server.
 *
 * Invariants:
 * S1 A writer's promise settles: with the message taken by the transport, or with an
 *    error when the call is over, even where the stream forgets its callback.
 * S2 Messages that arrived before an error are handed out before it is thrown.
 * S3 A stream that nobody reads never ends the process through its `error` event.
 */
import type { Readable, Writable } from 'node:stream'
import { CancelledError, InternalError } from './errors.js'

/**
 * A function that writes one message and resolves when the transport has taken it.
 * Rejects with the signal's reason once it aborts. Concurrent calls queue in order.
 */
export function writerOf<T>(stream: Writable, signal: AbortSignal): (message: T) => Promise<void> {
  const pending = new Set<(error: unknown) => void>()
  const failAll = (error: unknown) => {
    for (const reject of pending) reject(error)
    pending.clear()
  }
  const ended = () => new CancelledError('The call is over; nothing more can be sent.')
  signal.addEventListener('abort', () => failAll(signal.reason), { once: true })
  stream.on('error', failAll)
  stream.on('close', () => failAll(signal.aborted ? signal.reason : ended()))

  return (message) =>
    new Promise<void>((resolve, reject) => {
      if (signal.aborted) {
        reject(signal.reason)
        return
      }
      if (stream.destroyed || stream.writableEnded) {
        reject(ended())
        return
      }
      pending.add(reject)
      stream.write(message, (error) => {
        pending.delete(reject)
        if (error === null || error === undefined) resolve()
        else reject(error)
      })
    })
}

export interface MessagesOptions {
  /** Aborting ends the loop with the signal's reason, after what has arrived. */
  readonly signal?: AbortSignal
  /** What an error of the stream means to the reader. */
  errorOf(error: unknown): unknown
  /** Called when the reader leaves, by the end, an error or `break`. */
  onLeave?(): void
}

/**
 * The messages of a stream, for one reader. Errors are kept from the moment of the
 * call, so a reader that starts late misses none.
 */
export function messagesOf<T>(stream: Readable, options: MessagesOptions): AsyncIterableIterator<T> {
  let failure: { readonly error: unknown } | undefined
  let ended = false
  let left = false
  let wake: (() => void) | undefined
  const notify = () => {
    wake?.()
    wake = undefined
  }
  const fail = (error: unknown) => {
    failure ??= { error }
    notify()
  }
  stream.on('error', (error) => fail(options.errorOf(error)))
  stream.on('end', () => {
    ended = true
    notify()
  })
  stream.on('close', () => {
    // A closed stream without end or error was cut off.
    if (!ended)
      fail(options.signal?.aborted === true ? options.signal.reason : new CancelledError('The call is over.'))
    notify()
  })
  stream.on('readable', notify)
  const onAbort = () => fail(options.signal?.reason)
  if (options.signal?.aborted === true) onAbort()
  else options.signal?.addEventListener('abort', onAbort, { once: true })

  const leave = () => {
    if (left) return
    left = true
    options.signal?.removeEventListener('abort', onAbort)
    options.onLeave?.()
  }

  let reading = false
  return {
    async next(): Promise<IteratorResult<T>> {
      if (reading) throw new InternalError('A stream of messages has one reader; this is the second.')
      reading = true
      try {
        for (;;) {
          if (left) return { done: true, value: undefined }
          const message: T | null = stream.destroyed ? null : stream.read()
          if (message !== null) return { done: false, value: message }
          if (failure !== undefined) {
            leave()
            throw failure.error
          }
          if (ended) {
            leave()
            return { done: true, value: undefined }
          }
          await new Promise<void>((resolve) => {
            wake = resolve
          })
        }
      } finally {
        reading = false
      }
    },
    async return(): Promise<IteratorResult<T>> {
      leave()
      notify()
      return { done: true, value: undefined }
    },
    [Symbol.asyncIterator]() {
      return this
    },
  }
}
