/** Everything Kvasir wants to know of a machine, in one value. */
import type { Machine } from '@kvasir/proto/kvasir/capability/v1/capability'
import { type MainMemory, readMemory } from './memory.js'
import { findCards, type PciCard } from './pci.js'
import { type NumaNode, type Processors, readNumaNodes, readProcessors } from './processors.js'
import { type SystemFiles, systemFiles } from './system-files.js'

export interface Inventory {
  readonly processors: Processors
  readonly numaNodes: readonly NumaNode[]
  readonly memory: MainMemory
  readonly cards: readonly PciCard[]
}

/** Takes a few milliseconds; never throws. */
export function takeInventory(files: SystemFiles = systemFiles()): Inventory {
  const memory = readMemory(files)
  return {
    processors: readProcessors(files),
    numaNodes: readNumaNodes(files, memory.totalBytes),
    memory,
    cards: findCards(files),
  }
}

/** The inventory as an advertisement carries it, under the identity that all agents of the machine share. */
export function toMachine(inventory: Inventory, identity: { id: string; hostname: string }): Machine {
  return {
    id: identity.id,
    hostname: identity.hostname,
    cpuModel: inventory.processors.model,
    cpuCores: inventory.processors.cores,
    numaNodes: inventory.numaNodes.length,
    memoryBytes: BigInt(inventory.memory.totalBytes),
    pciDevices: inventory.cards.map(({ driver: _, ...card }) => card),
  }
}
