import { EXACT } from '@kvasir/engine/numerics'
import { describe, expect, it } from 'vitest'
import { openedTier, poolBlocks, sizedTiers } from './device-tiers.js'
import { type AgentSettings, agentSettings } from './settings.js'
import { FAKE_MODEL, FakeDriver } from './testing/fake-driver.js'
import { fakeDefinition } from './testing/test-devices.js'

/** Bytes of a block of the fake model. */
const BLOCK_BYTES = 768

async function tiersOf(
  settings: Partial<AgentSettings>,
  definition = fakeDefinition('npu'),
  nearestBytes?: number,
) {
  const parsed = agentSettings.parse({ deviceId: 'npu-0', model: FAKE_MODEL, ...settings })
  const { poolBlockBytes } = await new FakeDriver().inspectModel({ model: FAKE_MODEL, numerics: EXACT })
  const sized = sizedTiers(definition, parsed, nearestBytes)
  poolBlocks(sized, poolBlockBytes, FAKE_MODEL)
  return sized
    .map((tier) => openedTier(tier, poolBlockBytes, { bytesPerSecond: 100 }))
    .map(({ definition: { name }, blocks, capacityBytes }) => ({ name, blocks, capacityBytes }))
}

describe('the tiers of a device', () => {
  it('hold whole blocks, the far one four times the near one unless the settings say otherwise', async () => {
    expect(await tiersOf({ tierBytes: 10 * BLOCK_BYTES + 5 })).toEqual([
      { name: 'hbm', blocks: 10, capacityBytes: 10 * BLOCK_BYTES },
      { name: 'ddr', blocks: 40, capacityBytes: 40 * BLOCK_BYTES },
    ])
    expect(await tiersOf({ tierBytes: 10 * BLOCK_BYTES, ddrBytes: 3 * BLOCK_BYTES })).toMatchObject([
      { name: 'hbm', blocks: 10 },
      { name: 'ddr', blocks: 3 },
    ])
    expect(await tiersOf({ tierBytes: 10 * BLOCK_BYTES, ddrBytes: 0 })).toMatchObject([{ name: 'hbm' }])
  })

  it('are as large as a model is given', async () => {
    expect(await tiersOf({}, fakeDefinition('npu'), 2 * BLOCK_BYTES)).toMatchObject([
      { name: 'hbm', blocks: 2 },
      { name: 'ddr', blocks: 8 },
    ])
  })

  it('are refused in one sentence where they hold nothing or are not there', async () => {
    await expect(tiersOf({ tierBytes: BLOCK_BYTES - 1 })).rejects.toThrow(
      `A tier of 767 bytes holds no KV block of the model ${FAKE_MODEL}; set tierBytes to at least 768, or give the load as many bytes for KV.`,
    )
    await expect(tiersOf({ ddrBytes: 5 })).rejects.toThrow('set ddrBytes to at least 768')
    const [hbm] = fakeDefinition('npu').tiers
    const single = { ...fakeDefinition('npu'), tiers: [hbm] as const }
    await expect(tiersOf({ ddrBytes: BLOCK_BYTES }, single)).rejects.toThrow(
      'A device of kind npu has no DDR tier; leave ddrBytes out.',
    )
    expect(() => agentSettings.parse({ deviceId: 'npu-0', tierBytes: 0 })).toThrow(
      'a tier of 0 bytes holds nothing',
    )
  })
})
