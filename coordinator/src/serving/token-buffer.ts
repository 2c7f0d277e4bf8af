/**
 * The tokens of one request: those that arrived, those the core let through, those the
 * reader has.
 *
 * T1. Read in order, each once, and only after `release` (I3).
 * T2. Ids are kept to the end, since a lost device means to prefill them again; what
 *     belongs to a token besides (log probabilities) only until it is read.
 * T3. Bounded by the request's max tokens: an arrival beyond it is dropped.
 */
import type { Token } from '@kvasir/proto/kvasir/inference/v1/inference'

export class TokenBuffer {
  readonly #tokensMax: number
  readonly #ids: number[] = []
  readonly #waiting = new Map<number, Token>()
  #released = 0
  #read = 0
  #nearTies = 0

  constructor(tokensMax: number) {
    this.#tokensMax = tokensMax
  }

  get released(): number {
    return this.#released
  }

  get nearTies(): number {
    return this.#nearTies
  }

  get hasUnread(): boolean {
    return this.#read < this.#released
  }

  /** A token from a device. One that was let through already stays as it is. */
  arrive(token: Token): void {
    if (token.index >= this.#released && token.index < this.#tokensMax) this.#waiting.set(token.index, token)
  }

  /** Lets tokens `from` … `from + count − 1` through, which must follow those before. */
  release(from: number, count: number): void {
    for (let index = from; index < from + count; index += 1) {
      const token = this.#waiting.get(index)
      if (!token || index !== this.#released) throw new Error(`Token ${index} is let through but not here.`)
      this.#ids.push(token.id)
      if (token.nearTie) this.#nearTies += 1
      this.#released += 1
    }
  }

  /** Ids of all tokens let through. */
  ids(): readonly number[] {
    return this.#ids
  }

  /** What can be read now, at once. */
  take(): Token[] {
    const tokens: Token[] = []
    for (; this.#read < this.#released; this.#read += 1) {
      const token = this.#waiting.get(this.#read)
      if (token) tokens.push(token)
      this.#waiting.delete(this.#read)
    }
    return tokens
  }
}
