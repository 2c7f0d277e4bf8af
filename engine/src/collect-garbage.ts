/**
 * Frees what nobody refers to any more, now. A thread that holds large buffers and makes little else collects them
 * late or never by itself: the pool of a model that was unloaded would stay.
 */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collect: unknown = runInNewContext('gc')

/** Takes some milliseconds, in which the thread does nothing else. */
export function collectGarbage(): void {
  if (typeof collect === 'function') collect()
}
