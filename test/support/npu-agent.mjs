/** An agent of a kind that the project knows nothing of: it serves by what it says it can do. */
import { runAgentProcess } from '@kvasir/agent/agent-process'
import { ortFactory } from '@kvasir/agent/ort-factory'

runAgentProcess({
  kind: 'npu',
  capabilities: ['CAPABILITY_DECODE', 'CAPABILITY_PREFILL'],
  deviceModel: 'CPU standing in for an NPU',
  tiers: [{ name: 'sram', kind: 'TIER_KIND_ON_CHIP', bytes: 'tierBytes' }],
  decodeSlotsDefault: 4,
  linkClass: 'loopback',
  driver: ortFactory,
})
