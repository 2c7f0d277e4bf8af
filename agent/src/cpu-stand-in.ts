/** The words for a device that this machine's CPU computes for. */
import { availableParallelism } from 'node:os'

/** `device`: what it stands in for, such as "a GPU". */
export function cpuStandIn(device: string, cores = availableParallelism()): string {
  return `CPU standing in for ${device} (${cores} ${cores === 1 ? 'core' : 'cores'})`
}
