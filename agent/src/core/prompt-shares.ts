/**
 * How much of a step's time each of its prompts answers for, which is what the coordinator learns from.
 *
 * Prompts share a step by their rows, so that a device is not taken for slow because several came at once. Decodes in the
 * step answer for none of it: prompts run beside them in smaller chunks and longer steps, the next prompt on the device will
 * too, and a prediction does not know of them. Taking the decodes' part off made predictions on busy devices too early: the 99th
 * percentile of the time to the first token was 1 to 10 % longer on the 64 devices of `study scale`, at 70 to 90 requests a second.
 */
import type { StepPart } from './events.js'

/** One for each part, together 1 where there is a prompt; 0 for a decode. */
export function promptShares(parts: readonly Pick<StepPart, 'role' | 'count'>[]): number[] {
  const rows = parts.reduce((sum, { role, count }) => (role === 'prefill' ? sum + count : sum), 0)
  return parts.map(({ role, count }) => (role === 'prefill' ? count / rows : 0))
}
