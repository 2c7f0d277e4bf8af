/** What a paced device says of itself. */
import { deviceModel } from '@kvasir/catalogue/device-model'
import { builtinCatalogue } from '@kvasir/catalogue/load-catalogue'
import { systemClock } from '@kvasir/runtime/clock'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { createLogger } from '@kvasir/runtime/log'
import { afterEach, expect, test } from 'vitest'
import type { DeviceDefinition } from '../definition.js'
import { type ServingDevice, startServingDevice } from '../serving-device.js'
import { agentSettings } from '../settings.js'
import { FAKE_MODEL, fakeFactory } from '../testing/fake-driver.js'
import { poolBlockBytes } from '../testing/pool-bytes.js'
import {
  fakeDefinition,
  onlyModel,
  promptOf,
  readDecode,
  TestClient,
  TestDevice,
} from '../testing/test-devices.js'

const u280 = deviceModel(builtinCatalogue(), { device: 'u280', model: 'llama-2-7b', preset: 'glitches' })
const open: ServingDevice[] = []

afterEach(async () => {
  for (const device of open.splice(0)) await device.close()
})

async function paced(
  settings: Readonly<Record<string, unknown>>,
  definition: DeviceDefinition = fakeDefinition('fpga'),
): Promise<ServingDevice> {
  const device = await startServingDevice({
    definition,
    settings: agentSettings.parse({
      ...{ deviceId: 'fpga-0', paceAs: 'u280', paceModel: 'llama-2-7b', modelBytes: 2 ** 40 },
      ...settings,
    }),
    clock: systemClock,
    log: createLogger({ service: 'fpga-0', terminal: false }),
  })
  open.push(device)
  return device
}

test('it advertises the catalogued device: rates, sizes, memory, link, power, price and slots', async () => {
  const { device: alveo, kvMemories, kvBytesPerToken, stepWeightBytes } = u280
  const own = await poolBlockBytes(fakeFactory({}), FAKE_MODEL)
  const blocks = kvMemories.map(({ bytes }) => Math.floor(bytes / (16 * kvBytesPerToken)))
  const device = await paced({ model: FAKE_MODEL, tierBytes: 20_000 * own, ddrBytes: 200_000 * own })
  const said = device.advertisement()
  expect(said).toMatchObject({
    deviceModel: `${alveo.name}, in its times alone`,
    decodeSlots: 1,
    modelled: true,
    maxWatts: alveo.maxWatts ?? 0,
    priceDollars: alveo.dollars ?? 0,
    pace: { device: 'u280', model: 'llama-2-7b', preset: 'glitches' },
  })
  expect(said.link?.class).toBe(alveo.link)
  expect(
    said.tiers.map(({ name, capacityBytes, modelled }) => [name, Number(capacityBytes), modelled]),
  ).toEqual(kvMemories.map(({ name }, index) => [name, (blocks[index] ?? 0) * 16 * kvBytesPerToken, true]))
  const [model] = said.models
  expect(Number(model?.poolBytesPerToken)).toBe(kvBytesPerToken)
  expect(Number(model?.weightBytes)).toBe(Math.round(stepWeightBytes))
  expect(model?.compute[0]?.peakOpsPerSecond).toBe(alveo.compute.int8)
  expect(said.pace?.kvTokens).toBe(said.pace?.cataloguedKvTokens)
  // What it reports counts in the same bytes.
  const report = device.loadReport(1n)
  expect(report.tiers.map(({ capacityBytes }) => capacityBytes)).toEqual(
    said.tiers.map((tier) => tier.capacityBytes),
  )
  expect(report.paced).toEqual({ steps: 0n, lateSteps: 0n, lateUs: 0n, busyUs: 0n })
})

test('memory that this machine lacks is said, and slots that are asked for are given', async () => {
  const own = await poolBlockBytes(fakeFactory({}), FAKE_MODEL)
  const device = await paced({ model: FAKE_MODEL, tierBytes: 100 * own, ddrBytes: 0, decodeSlots: 3 })
  const { tiers, pace, decodeSlots } = device.advertisement()
  expect(decodeSlots).toBe(3)
  expect(tiers.map(({ name }) => name)).toEqual(['hbm'])
  expect(pace?.kvTokens).toBe(1_600n)
  expect(pace?.cataloguedKvTokens).toBeGreaterThan(1_600n)
})

test('what comes from a device without a pace takes as long as on the catalogued link', async () => {
  const prompt = promptOf(80)
  const source = await TestDevice.start({ deviceId: 'gpu-0' })
  const expected = await readDecode(
    source.decode('first', await source.reserve('first', 90), prompt, { maxTokens: 4 }),
  )
  const llamaBytes = 64 * u280.model.kvValuesPerToken * 4
  const linkBytesPerSecond = llamaBytes / 0.2
  const device = await paced({ model: FAKE_MODEL, ddrBytes: 0, linkBytesPerSecond })
  const { digest } = onlyModel(device).model
  const client = new TestClient('fpga-0', device.control.address, device.kv.address, digest)
  try {
    const { id: deviceId, endpoint } = source.source
    const prefix = { tokens: 64, deviceId, endpoint, tier: 'hbm' }
    const lease = await client.reserve('second', 90, 1, client.hashes(prompt))
    const { tokens, started } = await readDecode(
      client.decode('second', lease, prompt, { maxTokens: 4, prefix }),
    )
    expect(tokens).toEqual(expected.tokens)
    expect(started?.reuse).toMatchObject({ fetchedTokens: 64, modelledFetchedBytes: BigInt(llamaBytes) })
    expect(Number(started?.reuse?.fetchUs)).toBeGreaterThan(195_000)
  } finally {
    client.close()
    await source.stop()
  }
})

test('an agent without a device has nothing to pace', async () => {
  const { driver: _none, ...host } = fakeDefinition('host')
  const refusal = paced({}, host)
  await expect(refusal).rejects.toThrow(InvalidInputError)
  await expect(refusal).rejects.toThrow('A device of kind host computes nothing; leave paceAs out.')
})
