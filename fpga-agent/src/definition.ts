/** An FPGA: best at decoding a few sequences from its own memory; prefills when it must, slowly. */
import { cpuStandIn } from '@kvasir/agent/cpu-stand-in'
import type { DeviceDefinition } from '@kvasir/agent/definition'
import { ortFactory } from '@kvasir/agent/ort-factory'

export const fpgaDefinition: DeviceDefinition = {
  kind: 'fpga',
  capabilities: ['CAPABILITY_DECODE', 'CAPABILITY_PREFILL'],
  deviceModel: cpuStandIn('an FPGA'),
  tier: { name: 'hbm', kind: 'TIER_KIND_HBM' },
  decodeSlotsDefault: 8,
  linkClass: 'loopback',
  driver: ortFactory,
}
