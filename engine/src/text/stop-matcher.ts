/**
 * Cuts a streamed text at the first stop string.
 *
 * M1 Nothing that may be part of a stop string is emitted before it is known not to be.
 * M2 The result depends on the text alone, not on how it was cut into pushes: of the stop
 *    strings the one that ends first wins, of those the longest.
 * M3 At most (longest stop string − 1) UTF-16 units are held back.
 */
export interface StopMatcher {
  /** Takes more text; `text` is what may be emitted now. After `stopped` nothing is emitted any more. */
  push(text: string): { text: string; stopped: boolean }
  /** The end of the text: returns what was held back. */
  flush(): string
}

/** `stops` may be empty; empty strings in it are ignored. */
export function createStopMatcher(stops: readonly string[]): StopMatcher {
  const patterns = stops.filter((stop) => stop.length > 0).sort((a, b) => b.length - a.length)
  let held = ''
  let stopped = false

  function matchEndingAt(text: string, end: number): string | undefined {
    return patterns.find((pattern) => text.endsWith(pattern, end))
  }

  /** Length of the longest end of `text` that begins a stop string. */
  function heldLength(text: string): number {
    for (let length = Math.min(text.length, (patterns[0]?.length ?? 1) - 1); length > 0; length--) {
      const end = text.slice(text.length - length)
      if (patterns.some((pattern) => pattern.length > length && pattern.startsWith(end))) return length
    }
    return 0
  }

  return {
    push(more) {
      if (stopped) return { text: '', stopped: true }
      const text = held + more
      for (let end = held.length + 1; end <= text.length; end++) {
        const pattern = matchEndingAt(text, end)
        if (pattern === undefined) continue
        stopped = true
        held = ''
        return { text: text.slice(0, end - pattern.length), stopped: true }
      }
      const keep = heldLength(text)
      held = text.slice(text.length - keep)
      return { text: text.slice(0, text.length - keep), stopped: false }
    },
    flush() {
      const text = held
      held = ''
      return text
    },
  }
}
