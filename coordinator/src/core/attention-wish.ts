/**
 * How a client wants decoding to attend. Plain values, since placement weighs them.
 */
export type AttentionMethodName = 'dense' | 'page-bounds' | 'random' | 'recent'

/** `auto`: decided from the context's length and predicted time, as if nothing had been asked. */
export interface AttentionWish {
  readonly method: AttentionMethodName | 'auto'
  /** Tokens, or a share of the context above 0 and at most 1; null for dense and auto. */
  readonly budget: { readonly tokens: number } | { readonly share: number } | null
  /** Where it runs: `auto` by predicted time; `local` on the decoding device; the others on another one. */
  readonly place: 'auto' | 'local' | 'partial' | 'indices'
}
