/**
 * Turns tokens into text as they come.
 *
 * S1 Only whole characters are emitted: bytes of a character that is not complete wait.
 * S2 All pushes joined with the flush equal the UTF-8 reading of all the tokens' bytes at once;
 *    bytes that are not UTF-8 become U+FFFD.
 */
export interface StreamDecoder {
  /** The text that this token completes, often ''. */
  push(tokenId: number): string
  /** The end of the text: bytes of an unfinished character become U+FFFD. */
  flush(): string
}

/** `tokenBytes` gives a token's part of the text; special tokens give none. */
export function createStreamDecoder(tokenBytes: (tokenId: number) => Uint8Array): StreamDecoder {
  const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })
  return {
    push: (tokenId) => utf8.decode(tokenBytes(tokenId), { stream: true }),
    flush: () => utf8.decode(),
  }
}
