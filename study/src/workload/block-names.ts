/**
 * Names of a prompt's blocks from a trace's ids of other blocks. An id of 512 tokens becomes 32 names of blocks of 16; several ids
 * become one name where the cluster's blocks are larger. Only full blocks have names.
 */
import { InvalidInputError } from '@kvasir/runtime/errors'

/** Throws InvalidInputError where neither size divides the other. */
export function checkBlockSizes(idTokens: number, blockTokens: number): void {
  if (idTokens % blockTokens === 0 || blockTokens % idTokens === 0) return
  throw new InvalidInputError(
    `The trace names blocks of ${idTokens} tokens and the cluster has blocks of ${blockTokens}: one must be a multiple of the other. Set blockTokens of the cluster to ${idTokens}, or to a divisor of it.`,
    { param: 'blockTokens' },
  )
}

export function namesOfIds(
  ids: readonly number[],
  idTokens: number,
  blockTokens: number,
  promptTokens: number,
): number[] {
  checkBlockSizes(idTokens, blockTokens)
  const names: number[] = []
  const full = Math.floor(promptTokens / blockTokens)
  if (blockTokens > idTokens) {
    const each = blockTokens / idTokens
    // An id stands for all that is before it, so the last one names the whole block.
    for (let at = each - 1; at < ids.length && names.length < full; at += each) names.push(ids[at] ?? 0)
    return names
  }
  const each = idTokens / blockTokens
  for (const id of ids) {
    for (let part = 0; part < each && names.length < full; part += 1) names.push(id * each + part)
  }
  return names
}
