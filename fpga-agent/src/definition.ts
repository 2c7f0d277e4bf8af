/** An FPGA: best at decoding a few sequences from its own memory; prefills when it must, slowly. */
import { memoryService } from '@kvasir/agent/attend-service'
import { cpuStandIn } from '@kvasir/agent/cpu-stand-in'
import type { DeviceDefinition } from '@kvasir/agent/definition'
import { ortFactory } from '@kvasir/agent/ort-factory'
import { shardService } from '@kvasir/agent/shard-service'

/** Published rates of the Alveo U280, bytes a second: 8 GB of HBM2, and 32 GB of DDR4 on the board. */
const U280_HBM = 460e9
const U280_DDR = 38.4e9

export const fpgaDefinition: DeviceDefinition = {
  kind: 'fpga',
  capabilities: ['CAPABILITY_DECODE', 'CAPABILITY_PREFILL', 'CAPABILITY_ATTEND', 'CAPABILITY_RETRIEVE'],
  deviceModel: cpuStandIn('an FPGA'),
  tiers: [
    { name: 'hbm', kind: 'TIER_KIND_HBM', bytes: 'tierBytes' },
    { name: 'ddr', kind: 'TIER_KIND_DDR', bytes: 'ddrBytes', bandwidthShare: U280_DDR / U280_HBM },
  ],
  paperNumerics: 'quantised',
  decodeSlotsDefault: 8,
  linkClass: 'loopback',
  driver: ortFactory,
  services: [memoryService, shardService],
}
