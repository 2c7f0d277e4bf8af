/** A GPU: best at prefill, decodes many sequences at once when no other device does. */
import { memoryService } from '@kvasir/agent/attend-service'
import { cpuStandIn } from '@kvasir/agent/cpu-stand-in'
import type { DeviceDefinition } from '@kvasir/agent/definition'
import { ortFactory } from '@kvasir/agent/ort-factory'

export const gpuDefinition: DeviceDefinition = {
  kind: 'gpu',
  capabilities: ['CAPABILITY_PREFILL', 'CAPABILITY_DECODE', 'CAPABILITY_ATTEND'],
  deviceModel: cpuStandIn('a GPU'),
  tiers: [{ name: 'hbm', kind: 'TIER_KIND_HBM', bytes: 'tierBytes' }],
  decodeSlotsDefault: 32,
  linkClass: 'loopback',
  driver: ortFactory,
  services: [memoryService],
}
