/**
 * How a process says that it is ready: one JSON line on stdout, `{"ready":true,…}`.
 */

export type ReadyFacts = Readonly<Record<string, unknown>> & { readonly ready: true }

/** Prints the ready line. Call it once, when requests can be served. */
export function announceReady(facts: Readonly<Record<string, unknown>>): void {
  // A parent that closed its end must not turn the line into an error that nobody catches.
  process.stdout.on('error', () => {})
  process.stdout.write(`${JSON.stringify({ ready: true, ...facts })}\n`)
}

/** The facts of a ready line; undefined for any other line. */
export function parseReadyLine(line: string): ReadyFacts | undefined {
  if (!line.startsWith('{')) return undefined
  try {
    const parsed: unknown = JSON.parse(line)
    return isReady(parsed) ? parsed : undefined
  } catch {
    return undefined
  }
}

function isReady(value: unknown): value is ReadyFacts {
  return typeof value === 'object' && value !== null && 'ready' in value && value.ready === true
}
