/** Bytes that all corpora together may take. */
import { OverloadedError } from '@kvasir/runtime/errors'

export class ByteBudget {
  private taken = 0

  constructor(readonly capacity: number) {}

  get used(): number {
    return this.taken
  }

  /** Throws OverloadedError where they do not fit. */
  take(bytes: number): void {
    if (this.taken + bytes > this.capacity) {
      throw new OverloadedError(
        `The corpora of this machine may take ${this.capacity} bytes, which is not enough for these documents; delete a corpus, or raise corpusBytes.`,
        { param: 'corpusBytes' },
      )
    }
    this.taken += bytes
  }

  /** What is there already counts, whether it fits or not. Negative gives back. */
  adjust(bytes: number): void {
    this.taken += bytes
  }
}
