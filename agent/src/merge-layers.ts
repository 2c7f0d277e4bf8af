/**
 * Prefetch merging (GLITCHES): blocks of M consecutive layers are read and sent together, so that small loads become
 * fewer, larger ones.
 */
import { InvalidInputError } from '@kvasir/runtime/errors'

export const MERGE_LAYERS: readonly number[] = [1, 2, 4, 8]

/** What a message asks for, or else this device's setting. Throws InvalidInputError for a factor that there is not. */
export function mergeLayersOf(wanted: number | undefined, setting: number, message: string): number {
  if (wanted === undefined) return setting
  if (MERGE_LAYERS.includes(wanted)) return wanted
  throw new InvalidInputError(`${message}.merge_layers is ${wanted}; give 1, 2, 4 or 8.`, {
    param: 'merge_layers',
  })
}
