/** A machine's own memory, offered as a tier for KV blocks, and the description of the machine. */
import type { DeviceDefinition } from '@kvasir/agent/definition'
import { basicMachine } from '@kvasir/agent/machine'
import { type Inventory, toMachine } from './inventory/inventory.js'

export function hostDefinition(inventory: Inventory): DeviceDefinition {
  const { model, cores } = inventory.processors
  return {
    kind: 'host',
    capabilities: ['CAPABILITY_KV_TIER'],
    deviceModel: `${model} (${cores} ${cores === 1 ? 'core' : 'cores'})`,
    tier: { name: 'dram', kind: 'TIER_KIND_HOST_DRAM' },
    decodeSlotsDefault: 0,
    linkClass: 'loopback',
    machine: toMachine(inventory, basicMachine()),
  }
}
