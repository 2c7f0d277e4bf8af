/** A paced agent says the same of itself as the device of a study: so the live cluster is placed on as the virtual one is. */

import { startServingDevice } from '@kvasir/agent/serving-device'
import { agentSettings } from '@kvasir/agent/settings'
import { FAKE_MODEL } from '@kvasir/agent/testing/fake-driver'
import { fakeDefinition } from '@kvasir/agent/testing/test-devices'
import { builtinCatalogue } from '@kvasir/catalogue/load-catalogue'
import { factsOf } from '@kvasir/coordinator/serving/device-facts'
import { systemClock } from '@kvasir/runtime/clock'
import { createLogger } from '@kvasir/runtime/log'
import { deviceFacts } from '@kvasir/study/cluster/virtual-facts'
import { LINK_BYTES_PER_SECOND, VALIDATED, validatePlan } from '@kvasir/study/studies/validate-plan'
import { expect, test } from 'vitest'

const wish = { requests: 1, load: 0.8, seed: 1, liveLayers: 3, liveMergeLayers: 1 }
const { cluster } = validatePlan(builtinCatalogue(), wish, 0.5)

test.each([
  { deviceId: 'gpu-0', paceAs: VALIDATED.gpu, linkBytesPerSecond: LINK_BYTES_PER_SECOND },
  { deviceId: 'fpga-0', paceAs: VALIDATED.fpga, ddrBytes: 0 },
])('$paceAs', async (settings) => {
  const device = await startServingDevice({
    definition: fakeDefinition('paced'),
    settings: agentSettings.parse({
      ...{ paceModel: VALIDATED.model, pacePreset: VALIDATED.preset, model: FAKE_MODEL },
      ...{ modelBytes: 2 ** 40, tierBytes: 2 ** 34 },
      ...settings,
    }),
    clock: systemClock,
    log: createLogger({ service: settings.deviceId, terminal: false }),
  })
  try {
    const live = factsOf(device.advertisement())
    const planned = cluster.machines[0]?.devices.find(({ deviceId }) => deviceId === settings.deviceId)
    if (planned === undefined) throw new Error('not in the plan')
    const virtual = deviceFacts(cluster, planned, '1')
    const [own] = live.models
    const [studied] = virtual.models
    for (const key of ['kvBytesPerToken', 'poolBytesPerToken', 'parameters', 'profile'] as const) {
      expect(own?.[key], key).toEqual(studied?.[key])
    }
    expect(own?.weightBytes).toBeCloseTo(studied?.weightBytes ?? 0, 0)
    expect(live.compute).toEqual(virtual.compute)
    expect(live.link).toEqual(virtual.link)
    expect(live.decodeSlots).toBe(virtual.decodeSlots)
    expect(live.modelled).toBe(virtual.modelled)
    // In whole blocks.
    const tokens = ({ tiers }: typeof live) =>
      tiers.map(({ name, capacityBytes, bytesPerSecond }) => [
        ...[name, Math.floor(capacityBytes / (16 * (studied?.poolBytesPerToken ?? 1))), bytesPerSecond],
      ])
    expect(tokens(live)).toEqual(tokens(virtual))
  } finally {
    await device.close()
  }
})
