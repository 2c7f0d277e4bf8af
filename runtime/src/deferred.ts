/**
 * How tasks of one process wait for each other: promises settled from outside, waits
 * that have a deadline, and a bounded queue (I2).
 */
import { DeadlineError, InternalError } from './errors.js'

export interface Deferred<T> {
  readonly promise: Promise<T>
  resolve(value: T): void
  reject(reason: unknown): void
  /** Whether it was resolved or rejected through this object. */
  readonly settled: boolean
}

/**
 * A promise to be settled by hand. A rejection that nobody waits for does not end the
 * process: whoever creates a deferred hands its promise on, and may be gone by then.
 */
export function deferred<T>(): Deferred<T> {
  let settled = false
  let resolvePromise: (value: T) => void = () => {}
  let rejectPromise: (reason: unknown) => void = () => {}
  const promise = new Promise<T>((resolve, reject) => {
    resolvePromise = resolve
    rejectPromise = reject
  })
  promise.catch(() => {})
  return {
    promise,
    resolve(value) {
      settled = true
      resolvePromise(value)
    },
    reject(reason) {
      settled = true
      rejectPromise(reason)
    },
    get settled() {
      return settled
    },
  }
}

/**
 * Waits for `promise` at most `ms`, then throws a DeadlineError that names `what`, such
 * as "waiting for the device". The work behind the promise goes on; its late failure is
 * swallowed.
 */
export function withDeadline<T>(promise: Promise<T>, ms: number, what: string): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new DeadlineError(`Gave up after ${Math.round(ms)} ms ${what}.`))
    }, ms)
    promise.then(
      (value) => {
        clearTimeout(timer)
        resolve(value)
      },
      (error: unknown) => {
        clearTimeout(timer)
        reject(error)
      },
    )
  })
}

/**
 * Waits for `promise` until `signal` aborts, then throws the signal's reason. The work
 * behind the promise goes on; its late failure is swallowed.
 */
export function withSignal<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise
  return new Promise<T>((resolve, reject) => {
    const onAbort = () => reject(signal.reason)
    if (signal.aborted) {
      promise.catch(() => {})
      onAbort()
      return
    }
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}

/** Resolves after `ms`, or at once when the signal aborts; never rejects. */
export function delay(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted === true) {
      resolve()
      return
    }
    const done = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal?.addEventListener('abort', done, { once: true })
  })
}

type Ending = { readonly kind: 'end' } | { readonly kind: 'fail'; readonly error: unknown }

/**
 * A bounded queue between a producer that must not wait and one consumer that does.
 *
 * Invariants:
 * Q1 Never holds more than `bound` items; `push` returns false when it is full, and the
 *    producer decides what that means.
 * Q2 Items come out in order, each once; `end` and `fail` take effect after the items
 *    pushed before them.
 * Q3 One consumer: a second iterator throws. When it leaves its loop the queue closes.
 */
export class AsyncQueue<T> implements AsyncIterable<T> {
  private items: (T | undefined)[] = []
  private head = 0
  private ending: Ending | undefined
  private waiting: Deferred<void> | undefined
  private taken = false

  constructor(private readonly bound: number) {}

  get length(): number {
    return this.items.length - this.head
  }

  /** Whether `end` or `fail` was called, or the consumer left. */
  get closed(): boolean {
    return this.ending !== undefined
  }

  /** False when the queue is full or closed; the item is then not taken. */
  push(item: T): boolean {
    if (this.ending !== undefined || this.length >= this.bound) return false
    this.items.push(item)
    this.wake()
    return true
  }

  /** The consumer's loop ends after what is queued. The first ending counts. */
  end(): void {
    this.ending ??= { kind: 'end' }
    this.wake()
  }

  /** The consumer's loop throws `error` after what is queued. The first ending counts. */
  fail(error: unknown): void {
    this.ending ??= { kind: 'fail', error }
    this.wake()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    if (this.taken) throw new InternalError('An AsyncQueue has one consumer; this is the second.')
    this.taken = true
    try {
      for (;;) {
        if (this.length > 0) {
          yield this.shift()
        } else if (this.ending?.kind === 'fail') {
          throw this.ending.error
        } else if (this.ending !== undefined) {
          return
        } else {
          this.waiting = deferred()
          await this.waiting.promise
        }
      }
    } finally {
      this.items = []
      this.head = 0
      this.ending ??= { kind: 'end' }
    }
  }

  private shift(): T {
    const item = this.items[this.head] as T
    this.items[this.head] = undefined
    this.head += 1
    // Moving the rest forward only now and then keeps a shift at O(1) on average.
    if (this.head === this.items.length) {
      this.items = []
      this.head = 0
    } else if (this.head >= 1024 && this.head * 2 >= this.items.length) {
      this.items = this.items.slice(this.head)
      this.head = 0
    }
    return item
  }

  private wake(): void {
    this.waiting?.resolve()
    this.waiting = undefined
  }
}
