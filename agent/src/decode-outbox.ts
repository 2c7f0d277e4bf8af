/**
 * What a Decode stream has to say, kept until its consumer takes it.
 *
 * A consumer that is slow gets the tokens of several steps in one message; one that does
 * not read at all fills the bound, and its sequence is then ended by the owner. The step
 * never waits.
 *
 * Invariant: messages come out in order, each once; after `finish` or `fail` nothing is taken in.
 */
import type { DecodeResponse, Token } from '@kvasir/proto/kvasir/inference/v1/inference'
import { type Deferred, deferred } from '@kvasir/runtime/deferred'

export class DecodeOutbox {
  private readonly messages: DecodeResponse[] = []
  /** Tokens of the last message, which later tokens may still join. */
  private open: Token[] | undefined
  private waitingTokens = 0
  private ended = false
  private failure: { readonly error: unknown } | undefined
  private wake: Deferred<void> | undefined

  constructor(private readonly tokensMax: number) {}

  say(message: DecodeResponse): void {
    if (this.ended) return
    this.open = undefined
    this.messages.push(message)
    this.notify()
  }

  /** False where the bound is reached; the token is then not taken. */
  token(token: Token): boolean {
    if (this.ended || this.waitingTokens >= this.tokensMax) return false
    this.waitingTokens += 1
    if (this.open === undefined) {
      this.open = [token]
      this.messages.push({ event: { $case: 'tokens', value: { tokens: this.open } } })
    } else this.open.push(token)
    this.notify()
    return true
  }

  /** The last message. */
  finish(message: DecodeResponse): void {
    this.say(message)
    this.ended = true
  }

  /** The stream ends with an error once what is waiting was taken. */
  fail(error: unknown): void {
    if (this.ended) return
    this.ended = true
    this.failure = { error }
    this.notify()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<DecodeResponse, void, undefined> {
    for (;;) {
      const message = this.messages.shift()
      if (message !== undefined) {
        if (message.event?.$case === 'tokens') {
          this.waitingTokens -= message.event.value.tokens.length
          if (message.event.value.tokens === this.open) this.open = undefined
        }
        yield message
      } else if (this.failure !== undefined) throw this.failure.error
      else if (this.ended) return
      else {
        this.wake = deferred()
        await this.wake.promise
      }
    }
  }

  private notify(): void {
    this.wake?.resolve()
    this.wake = undefined
  }
}
