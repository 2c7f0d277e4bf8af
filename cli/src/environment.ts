/** The machine and the software that figures were measured with, said beside them. */
import { takeInventory } from '@kvasir/host-agent/inventory/inventory'
import { SOFTWARE_VERSION } from '@kvasir/runtime/protocol'

export interface Environment {
  readonly node: string
  readonly version: string
  readonly cpu: string
  readonly cores: number
  readonly memoryBytes: number
}

export function environment(): Environment {
  const { processors, memory } = takeInventory()
  return {
    node: process.versions.node,
    version: SOFTWARE_VERSION,
    cpu: processors.model,
    cores: processors.cores,
    memoryBytes: memory.totalBytes,
  }
}
