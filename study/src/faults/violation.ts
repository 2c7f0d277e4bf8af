/** A rule that did not hold: which one, who it concerns, and one sentence. */

export const RULES = ['I1', 'I2', 'I3', 'I4', 'I5', 'I6', 'books', 'calm', 'crash'] as const
/**
 * I1 to I6: the invariants of ARCHITECTURE.md. books: what a core counts is what there is. calm: once all faults are over
 * every request is served. crash: a core threw.
 */
export type RuleName = (typeof RULES)[number]

export class Violation extends Error {
  override readonly name = 'Violation'

  constructor(
    readonly rule: RuleName,
    message: string,
    /** Request, device. */
    readonly about: readonly string[] = [],
  ) {
    super(message)
  }
}
