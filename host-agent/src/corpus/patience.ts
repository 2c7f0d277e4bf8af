/** Waits whose end is for the caller to know: a sentence that says what was waited for. */
import { UnavailableError } from '@kvasir/runtime/errors'

const RETRY_MS = 1_000

/** Throws UnavailableError with the sentence where the promise does not settle in time: its caller may try again. */
export function withinOrUnavailable<T>(promise: Promise<T>, ms: number, sentence: string): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const timer = setTimeout(() => reject(new UnavailableError(sentence, { retryAfterMs: RETRY_MS })), ms)
    promise.then(resolve, reject).finally(() => clearTimeout(timer))
  })
}
