/** What set-up says while it works: one plain line a fact, on stderr, so that stdout stays the result's. */

/** @param {string} line */
export function say(line) {
  process.stderr.write(`kvasir: ${line}\n`)
}

/** A failure that a person can mend: its message is one sentence with the next step. */
export class SetupError extends Error {}

/**
 * Runs one step that takes a while, saying when it begins and how long it took.
 * @template T
 * @param {string} what
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function step(what, work) {
  const begin = performance.now()
  say(`${what} …`)
  const result = await work()
  say(`${what}: done in ${((performance.now() - begin) / 1000).toFixed(1)} s`)
  return result
}
