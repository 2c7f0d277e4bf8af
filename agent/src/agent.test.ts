/** Agents of an unknown kind on a real nats-server: advertised, controlled, serving by their capabilities. */
import {
  Advertisement,
  ControlRequest,
  KvEvent,
  LoadReport,
} from '@kvasir/proto/kvasir/capability/v1/capability'
import { type Bus, connectBus } from '@kvasir/runtime/bus'
import { deferred } from '@kvasir/runtime/deferred'
import { type KvasirError, NotFoundError } from '@kvasir/runtime/errors'
import { createLogger } from '@kvasir/runtime/log'
import {
  BUCKET_TTL_MS,
  controlSubject,
  DEVICES_BUCKET,
  kvSubject,
  loadSubject,
  READVERTISE_MS,
} from '@kvasir/runtime/subjects'
import { startNatsServer, type TestNatsServer } from '@kvasir/runtime/testing/nats-server'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Agent, startAgent } from './agent.js'
import type { BlockHolder } from './block-holder.js'
import type { DeviceDefinition } from './definition.js'
import { agentSettings } from './settings.js'
import { FAKE_MODEL } from './testing/fake-driver.js'
import { fakeDefinition, promptOf, readDecode, TestClient } from './testing/test-devices.js'

let nats: TestNatsServer
let bus: Bus
const log = createLogger({ service: 'test', terminal: false })

beforeAll(async () => {
  nats = await startNatsServer()
  bus = await connectBus({ url: nats.url, name: 'test' })
})
afterAll(async () => {
  await bus.close()
  await nats.close()
})

function start(definition: DeviceDefinition, deviceId: string, onDrainRequest = () => {}): Promise<Agent> {
  const settings = agentSettings.parse({ deviceId, nats: nats.url, model: FAKE_MODEL, tierBytes: 76_900 })
  return startAgent(definition, settings, { log, onDrainRequest })
}

async function advertised(deviceId: string): Promise<Advertisement | undefined> {
  const entries = await bus.bucket(DEVICES_BUCKET, { ttlMs: BUCKET_TTL_MS }).entries()
  const entry = entries.find(({ key }) => key === deviceId)
  return entry === undefined ? undefined : Advertisement.fromJSON(entry.value)
}

describe('an agent of an unknown kind', () => {
  it('is advertised with what it can do, reports its load, and answers', async () => {
    const reports: LoadReport[] = []
    const subscription = bus.subscribe(loadSubject('*'), (report) =>
      reports.push(LoadReport.fromJSON(report)),
    )
    const agent = await start(fakeDefinition('npu'), 'npu-0')
    const advertisement = await advertised('npu-0')
    expect(advertisement).toMatchObject({
      deviceId: 'npu-0',
      incarnation: agent.incarnation,
      kind: 'npu',
      capabilities: ['CAPABILITY_PREFILL', 'CAPABILITY_DECODE'],
      decodeSlots: 8,
      // 100 whole blocks of 768 bytes fit into 76,900 bytes.
      tiers: [
        { name: 'hbm', capacityBytes: 76_800n },
        // Four times as large by default, and as slow as published.
        { name: 'ddr', capacityBytes: 307_200n, modelled: true },
      ],
      models: [{ name: FAKE_MODEL, profile: 'PROFILE_EXACT', kvBytesPerToken: 48n }],
      endpoints: { control: agent.control, kv: agent.kv },
      modelled: false,
    })
    expect(advertisement?.compute[0]?.peakOpsPerSecond).toBeGreaterThan(0)
    await expect.poll(() => reports.length, { timeout: 3_000 }).toBeGreaterThan(1)
    expect(reports.map(({ sequence }) => sequence)).toEqual(reports.map((_, i) => BigInt(i + 1)))
    expect(reports[0]).toMatchObject({ deviceId: 'npu-0', draining: false, leases: 0 })
    const ping = ControlRequest.toJSON({
      protocolVersion: 1,
      command: { $case: 'ping', value: {} },
    }) as object
    const answer = await bus.request(controlSubject('npu-0'), ping, 2_000)
    expect(answer).toMatchObject({ deviceId: 'npu-0', incarnation: String(agent.incarnation) })
    const strange = ControlRequest.toJSON({
      protocolVersion: 99,
      command: { $case: 'ping', value: {} },
    }) as object
    await expect(bus.request(controlSubject('npu-0'), strange, 2_000)).rejects.toMatchObject({
      code: 'unsupported',
    })
    subscription.unsubscribe()
    await agent.close()
    expect(await advertised('npu-0')).toBeUndefined()
  })

  it('is told to drain over NATS, says so, and leaves the bucket', async () => {
    const asked = deferred<void>()
    const agent = await start(fakeDefinition('npu'), 'npu-1', asked.resolve)
    const draining = deferred<void>()
    bus.subscribe(loadSubject('npu-1'), (report) => {
      if (LoadReport.fromJSON(report).draining) draining.resolve()
    })
    const command = { $case: 'drain', value: { deadlineMs: 2_000 } } as const
    await bus.request(
      controlSubject('npu-1'),
      ControlRequest.toJSON({ protocolVersion: 1, command }) as object,
      2_000,
    )
    await asked.promise
    await agent.drain(10_000)
    await draining.promise
    expect(await advertised('npu-1')).toBeUndefined()
    await agent.close()
  })

  it('offers memory alone where it has no driver', async () => {
    const agent = await start(
      {
        kind: 'shelf',
        capabilities: ['CAPABILITY_KV_TIER'],
        deviceModel: 'a shelf of memory',
        tiers: [{ name: 'dram', kind: 'TIER_KIND_HOST_DRAM', bytes: 'tierBytes' }],
        memory: ({ settings }) => new Shelf(settings.tierBytes),
        decodeSlotsDefault: 0,
        linkClass: 'loopback',
      },
      'shelf-0',
    )
    expect(await advertised('shelf-0')).toMatchObject({
      models: [],
      decodeSlots: 0,
      tiers: [{ capacityBytes: 76_900n }],
    })
    await agent.close()
  })

  it('is told over NATS to load a model and to unload it, and advertises what it has at once', async () => {
    const agent = await start(fakeDefinition('npu'), 'npu-4')
    const tell = (command: ControlRequest['command']) =>
      bus.request(
        controlSubject('npu-4'),
        ControlRequest.toJSON({ protocolVersion: 1, command }) as object,
        15_000,
      )
    const names = async () => (await advertised('npu-4'))?.models.map(({ name }) => name)
    const load = (model: string, digest = '') =>
      tell({ $case: 'loadModel', value: { model, digest, profile: 'PROFILE_EXACT', kvBytes: 0n } })
    const began = performance.now()
    await load(`${FAKE_MODEL}-b`)
    await expect.poll(names, { interval: 20 }).toEqual([FAKE_MODEL, `${FAKE_MODEL}-b`])
    // Not only with the next of its regular advertisements.
    expect(performance.now() - began).toBeLessThan(READVERTISE_MS)
    await expect(load('')).rejects.toMatchObject({ code: 'invalid_input' })
    await expect(load(FAKE_MODEL, 'short')).rejects.toThrow('not a SHA-256')
    await expect(load(FAKE_MODEL, 'ab'.repeat(32))).rejects.toThrow('no agent serves it with digest')
    const digest = (await advertised('npu-4'))?.models[1]?.digest ?? ''
    const unload = () =>
      tell({ $case: 'unloadModel', value: { digest, profile: 'PROFILE_EXACT', deadlineMs: 1_000 } })
    await unload()
    await expect.poll(names, { interval: 20 }).toEqual([FAKE_MODEL])
    const again = () =>
      unload().then(
        () => 'begun',
        (error: KvasirError) => error.code,
      )
    await expect.poll(again, { interval: 20 }).toBe('not_found')
    await agent.close()
  })

  it('is advertised again by a server that lost everything', async () => {
    const agent = await start(fakeDefinition('npu'), 'npu-2')
    await nats.kill()
    await nats.start({ wipe: true })
    await expect.poll(() => bus.connected, { timeout: 5_000 }).toBe(true)
    await expect
      .poll(() => advertised('npu-2').catch(() => undefined), { timeout: 8_000 })
      .toMatchObject({ incarnation: agent.incarnation })
    await agent.close()
  })
})

/** Memory that stays empty. */
class Shelf implements BlockHolder {
  constructor(private readonly bytes: number) {}

  lend(): never {
    throw new NotFoundError('The shelf is empty.')
  }

  async offered(): Promise<string[]> {
    return []
  }

  evict(): number {
    return 0
  }

  fill() {
    return [{ name: 'dram', leasedBytes: 0n, capacityBytes: BigInt(this.bytes) }]
  }

  close(): void {}
}

describe('KV events', () => {
  it('name the blocks on NATS', async () => {
    const events: KvEvent[] = []
    bus.subscribe(kvSubject('npu-3'), (event) => events.push(KvEvent.fromJSON(event)))
    const agent = await start(fakeDefinition('npu'), 'npu-3')
    const client = new TestClient(
      'npu-3',
      agent.control,
      agent.kv,
      (await advertised('npu-3'))?.models[0]?.digest ?? '',
    )
    const lease = await client.reserve('blocks', 60)
    await readDecode(client.decode('blocks', lease, promptOf(40), { maxTokens: 3 }))
    await expect.poll(() => events.flatMap(({ stored }) => stored).length, { timeout: 2_000 }).toBe(2)
    const evict = { protocolVersion: 1, command: { $case: 'evict', value: { drop: true } } } as const
    const answer = await bus.request(controlSubject('npu-3'), ControlRequest.toJSON(evict) as object, 2_000)
    expect(answer).toMatchObject({ evictedBlocks: '2' })
    await expect.poll(() => events.flatMap(({ removed }) => removed).length, { timeout: 2_000 }).toBe(2)
    expect(events[0]).toMatchObject({
      deviceId: 'npu-3',
      sequence: 1n,
      tier: 'hbm',
      incarnation: agent.incarnation,
    })
    expect(events.flatMap(({ stored }) => stored)).toHaveLength(2)
    client.close()
    await agent.close()
  })
})
