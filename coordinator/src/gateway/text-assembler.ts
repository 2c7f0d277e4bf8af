/**
 * Turns the tokens of one answer into its text, cut exactly at the first stop string.
 *
 * Invariants:
 * A1 Only whole characters come out, and nothing that may yet belong to a stop string.
 * A2 A token comes out with the piece that holds its last character; a token of which no
 *    character is part of the answer (it lies in the stop string) never does.
 * A3 After the stop nothing comes out; later tokens are not counted.
 */
import { createStopMatcher, type StopMatcher } from '@kvasir/engine/text/stop-matcher'
import type { StreamDecoder } from '@kvasir/engine/text/stream-decoder'
import type { Token } from '@kvasir/proto/kvasir/inference/v1/inference'

/** A token of the answer, with where its text begins in it, in UTF-16 units. */
export interface PlacedToken {
  readonly token: Token
  readonly textOffset: number
}

interface HeldToken extends PlacedToken {
  /** Infinity while the token's last character is incomplete. */
  textEnd: number
}

export interface Piece {
  readonly text: string
  readonly tokens: readonly PlacedToken[]
}

export class TextAssembler {
  private readonly matcher: StopMatcher
  private held: HeldToken[] = []
  private decodedLength = 0
  private emittedLength = 0
  private tokenCount = 0
  private stopped = false

  /** Without `keepTokens` pieces carry text only, which is cheaper. */
  constructor(
    private readonly decoder: StreamDecoder,
    stops: readonly string[],
    private readonly keepTokens: boolean,
  ) {
    this.matcher = createStopMatcher(stops)
  }

  /** Tokens taken, those of the stop string included. */
  get completionTokens(): number {
    return this.tokenCount
  }

  /** Whether a stop string was met. */
  get isStopped(): boolean {
    return this.stopped
  }

  push(tokens: readonly Token[]): Piece {
    let text = ''
    for (const token of tokens) {
      if (this.stopped) break
      this.tokenCount++
      const decoded = this.decoder.push(token.id)
      if (this.keepTokens) {
        this.held.push({ token, textOffset: this.decodedLength, textEnd: Number.POSITIVE_INFINITY })
      }
      text += this.match(decoded)
    }
    return this.release(text, false)
  }

  /** The end of the answer: what was held back and turned out not to be a stop string. */
  finish(): Piece {
    let text = ''
    if (!this.stopped) text = this.match(this.decoder.flush())
    text += this.matcher.flush()
    return this.release(text, true)
  }

  private match(decoded: string): string {
    if (decoded === '') return ''
    this.decodedLength += decoded.length
    // Every token so far has its characters whole now.
    for (let i = this.held.length - 1; i >= 0; i--) {
      const held = this.held[i]
      if (held === undefined || held.textEnd !== Number.POSITIVE_INFINITY) break
      held.textEnd = this.decodedLength
    }
    const { text, stopped } = this.matcher.push(decoded)
    this.stopped = stopped
    return text
  }

  private release(text: string, all: boolean): Piece {
    this.emittedLength += text.length
    if (this.held.length === 0) return { text, tokens: [] }
    const end = this.emittedLength
    const isOut = this.stopped
      ? (held: HeldToken) => held.textOffset < end
      : (held: HeldToken) => all || held.textEnd <= end
    const keep = this.held.findIndex((held) => !isOut(held))
    const tokens = keep === -1 ? this.held : this.held.slice(0, keep)
    this.held = keep === -1 || this.stopped ? [] : this.held.slice(keep)
    return { text, tokens }
  }
}
