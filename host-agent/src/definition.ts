/** A machine's own memory, offered as a tier for KV blocks, its corpora, and the description of the machine. */
import type { DeviceDefinition } from '@kvasir/agent/definition'
import { basicMachine } from '@kvasir/agent/machine'
import { corpora } from './corpus/corpora.js'
import { type Inventory, toMachine } from './inventory/inventory.js'
import { HostTier } from './tier/host-tier.js'

export function hostDefinition(inventory: Inventory): DeviceDefinition {
  const { model, cores } = inventory.processors
  return {
    kind: 'host',
    capabilities: ['CAPABILITY_KV_TIER', 'CAPABILITY_CORPUS'],
    deviceModel: `${model} (${cores} ${cores === 1 ? 'core' : 'cores'})`,
    tiers: [{ name: 'dram', kind: 'TIER_KIND_HOST_DRAM', bytes: 'tierBytes' }],
    decodeSlotsDefault: 0,
    linkClass: 'loopback',
    machine: toMachine(inventory, basicMachine()),
    memory: (parts) => new HostTier('dram', parts),
    services: [corpora],
  }
}
