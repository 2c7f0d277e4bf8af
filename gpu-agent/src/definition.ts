/** A GPU: best at prefill, decodes many sequences at once when no other device does. */
import { cpuStandIn } from '@kvasir/agent/cpu-stand-in'
import type { DeviceDefinition } from '@kvasir/agent/definition'
import { ortFactory } from '@kvasir/agent/ort-factory'

export const gpuDefinition: DeviceDefinition = {
  kind: 'gpu',
  capabilities: ['CAPABILITY_PREFILL', 'CAPABILITY_DECODE'],
  deviceModel: cpuStandIn('a GPU'),
  tier: { name: 'hbm', kind: 'TIER_KIND_HBM' },
  decodeSlotsDefault: 32,
  linkClass: 'loopback',
  driver: ortFactory,
}
