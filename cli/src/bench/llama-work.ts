/** What both sides of `kvasir bench llama` are asked, and what they answer. */

export interface LlamaWork {
  readonly promptTokens: readonly number[]
  /** Of the answer; the first one comes with the prompt. */
  readonly newTokens: number
}

export interface LlamaTimes {
  /** Until the first token. */
  readonly ttftMs: number
  /** Of each further one. */
  readonly tpotMs: number
}
