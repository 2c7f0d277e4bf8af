/**
 * What steps cost on this device, learned from those that have run: how long one takes in
 * which sequences only decode, and how much longer each row of a prompt makes it.
 *
 * From that follows how many prompt rows may share a step with decodes. A fixed number
 * would be too long on a device where a row costs much and needlessly short where it
 * costs little.
 */
import type { StepPart } from './events.js'
import type { StepLimits } from './step-planner.js'

/** A step that decodes share may take so many times as long as one in which nothing is prefilled, unless told otherwise. */
export const SHARED_STEP_STRETCH = 4
/** Weight of the newest step; the rest is what was learned before. */
const NEWEST = 0.5

export class StepCosts {
  /** Undefined until such a step has run. */
  private decodeStepUs: number | undefined
  private prefillRowUs: number | undefined

  constructor(private readonly blockTokens: number) {}

  /** `steps` steps ran to their ends, each of which took so long: as if told of one after the other. */
  ran(parts: readonly StepPart[], elapsedUs: number, steps = 1): void {
    let rows = 0
    for (const { role, count } of parts) if (role === 'prefill') rows += count
    if (rows === 0) {
      for (let step = 0; step < steps; step += 1) {
        const before = this.decodeStepUs
        this.decodeStepUs = average(before, elapsedUs)
        // It has come as near as numbers do.
        if (this.decodeStepUs === before) break
      }
    } else {
      // Every step reads all weights, as one that only decodes does; what is above that is the rows'.
      const rowUs = Math.max(0, elapsedUs - (this.decodeStepUs ?? 0)) / rows
      this.prefillRowUs = average(this.prefillRowUs, rowUs)
    }
  }

  /** Most prompt rows of a step that decodes share: whole blocks, at least one; one while nothing is known. */
  sharedChunkTokens({ sharedChunkTokens, sharedStepStretch = SHARED_STEP_STRETCH }: StepLimits): number {
    const { decodeStepUs, prefillRowUs, blockTokens } = this
    if (decodeStepUs === undefined || prefillRowUs === undefined) return blockTokens
    const spareUs = (sharedStepStretch - 1) * decodeStepUs
    const rows = Math.min(sharedChunkTokens, prefillRowUs === 0 ? sharedChunkTokens : spareUs / prefillRowUs)
    return Math.max(blockTokens, Math.floor(rows / blockTokens) * blockTokens)
  }
}

function average(before: number | undefined, newest: number): number {
  return before === undefined ? newest : before + NEWEST * (newest - before)
}
