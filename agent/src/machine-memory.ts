/** How much of the machine's memory models may take. */
import { availableMemoryBytes, type MemorySources } from '@kvasir/runtime/available-memory'

/** What models may take unless the settings say otherwise: the rest is for the processes themselves, and the system. */
const MODEL_SHARE = 0.75

/** ¾ of what is available now, so that agents that start one after the other share what there is. */
export function modelBytesDefault(sources?: MemorySources): number {
  return Math.floor(MODEL_SHARE * availableMemoryBytes(sources))
}
