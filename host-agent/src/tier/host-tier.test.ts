/** A device with little memory and the host tier of its machine, over real gRPC: blocks go out and come back. */

import { kvTransferService } from '@kvasir/agent/kv-service'
import type { AgentLimits } from '@kvasir/agent/limits'
import { type ServingDevice, startServingDevice } from '@kvasir/agent/serving-device'
import { agentSettings } from '@kvasir/agent/settings'
import { expectedTokens } from '@kvasir/agent/testing/fake-driver'
import { promptOf, readDecode, TestDevice, type TestDeviceOptions } from '@kvasir/agent/testing/test-devices'
import { KvServiceClient, KvServiceService } from '@kvasir/proto/kvasir/kv/v1/kv'
import { systemClock } from '@kvasir/runtime/clock'
import { withSignal } from '@kvasir/runtime/deferred'
import { createLogger } from '@kvasir/runtime/log'
import { callServerStream, callUnary, createRpcClient } from '@kvasir/runtime/rpc-client'
import { bidi, startRpcServer } from '@kvasir/runtime/rpc-server'
import { afterEach, describe, expect, it } from 'vitest'
import { HostTier } from './host-tier.js'

const closing: (() => Promise<unknown>)[] = []

afterEach(async () => {
  await Promise.all(closing.splice(0).map((close) => close()))
})

async function startHost(tierBytes = 1 << 20, limits: Partial<AgentLimits> = {}): Promise<ServingDevice> {
  const host = await startServingDevice({
    definition: {
      kind: 'host',
      capabilities: ['CAPABILITY_KV_TIER'],
      deviceModel: 'memory',
      tiers: [{ name: 'dram', kind: 'TIER_KIND_HOST_DRAM', bytes: 'tierBytes' }],
      decodeSlotsDefault: 0,
      linkClass: 'loopback',
      memory: (parts) => new HostTier('dram', parts),
    },
    settings: agentSettings.parse({ deviceId: 'host-0', tierBytes }),
    limits,
    clock: systemClock,
    log: createLogger({ service: 'host-0', terminal: false }),
  })
  closing.push(() => host.close())
  return host
}

async function startDevice(
  host: ServingDevice | undefined,
  options: Omit<TestDeviceOptions, 'deviceId'> & { deviceId?: string } = {},
): Promise<TestDevice> {
  const peer = host === undefined ? undefined : { deviceId: 'host-0', control: host.control.address }
  const device = await TestDevice.start({ deviceId: 'fpga-0', hostTier: () => peer, ...options })
  closing.push(() => device.stop())
  return device
}

/** Prefills and decodes on one device; `from`: where its prefix can be had. */
async function generate(
  device: TestDevice,
  id: string,
  prompt: number[],
  from?: { deviceId: string; endpoint: string; tokens: number },
) {
  const lease = await device.reserve(id, prompt.length + 8)
  const prefix = from === undefined ? undefined : { ...from, tier: 'dram' }
  return readDecode(
    device.decode(id, lease, prompt, { maxTokens: 8, ...(prefix === undefined ? {} : { prefix }) }),
  )
}

function heldBy(host: ServingDevice): string[] {
  return host.device.index.snapshot().parts.flatMap(({ hashes }) => [...hashes])
}

describe('blocks that leave a device', () => {
  it('are taken in by the host tier, fetched back, and give the same text', async () => {
    const host = await startHost()
    const device = await startDevice(host, { blocks: 12 })
    const prompt = promptOf(100)
    const first = await generate(device, 'first', prompt)
    expect(first.tokens).toEqual(expectedTokens(prompt, 8))
    // Another prompt takes the room.
    await generate(device, 'other', promptOf(180, 2))
    const hashes = device.hashes(prompt)
    await expect.poll(() => heldBy(host)).toEqual(expect.arrayContaining([...hashes]))
    const from = { deviceId: 'host-0', endpoint: host.kv.address, tokens: 96 }
    const again = await generate(device, 'again', prompt, from)
    expect(again.tokens).toEqual(first.tokens)
    expect(again.started?.reuse).toMatchObject({
      localTokens: 0,
      fetchedTokens: 96,
      sourceDeviceId: 'host-0',
      fetchedBytes: 6n * 768n,
      problem: '',
    })
    const [fill] = host.loadReport(1n).tiers
    expect(fill).toMatchObject({ name: 'dram', capacityBytes: 1n << 20n, leasedBytes: 0n })
    expect(fill?.counters).toMatchObject({ hits: 6n, lookups: 6n, outBytes: 6n * 768n })
    expect(fill?.counters?.inBytes).toBeGreaterThanOrEqual(6n * 768n)
    const [hbm] = device.serving.loadReport(1n).tiers
    expect(hbm?.counters?.droppedBlocks).toBe(0n)
    expect(hbm?.counters?.outBytes).toBeGreaterThanOrEqual(6n * 768n)
  })

  it('are named in its snapshot', async () => {
    const host = await startHost()
    const device = await startDevice(host)
    const prompt = promptOf(64)
    await generate(device, 'first', prompt)
    expect(device.serving.device.holder.evict(false)).toBe(4)
    await expect.poll(() => heldBy(host).length).toBe(4)
    const client = createRpcClient(KvServiceClient, host.control.address)
    const told: string[] = []
    for await (const { hashes } of callServerStream(client, 'snapshot', {})) {
      told.push(...hashes.map((hash) => Buffer.from(hash).toString('hex')))
    }
    client.close()
    expect(new Set(told)).toEqual(new Set(device.hashes(prompt)))
    expect(host.device.holder.evict(true)).toBe(4)
    expect(heldBy(host)).toEqual([])
  })

  it('are dropped and counted where no host tier is, or where it does not answer', async () => {
    const alone = await startDevice(undefined)
    await generate(alone, 'first', promptOf(64))
    expect(alone.serving.device.holder.evict(false)).toBe(4)
    expect(alone.serving.loadReport(1n).tiers[0]?.counters).toMatchObject({ droppedBlocks: 4n, outBytes: 0n })

    const host = await startHost()
    const device = await startDevice(host, { deviceId: 'fpga-1' })
    await host.close()
    await generate(device, 'first', promptOf(64))
    expect(device.serving.device.holder.evict(false)).toBe(4)
    const dropped = () => device.serving.loadReport(1n).tiers[0]?.counters?.droppedBlocks
    await expect.poll(dropped, { timeout: 5_000 }).toBe(4n)
  })

  it('are not staged beyond the bound', async () => {
    const host = await startHost()
    const device = await startDevice(host, { limits: { stagingBytesMax: 2 * 768 } })
    await generate(device, 'first', promptOf(64))
    expect(device.serving.device.holder.evict(false)).toBe(4)
    await expect.poll(() => heldBy(host).length).toBe(2)
    expect(device.serving.loadReport(1n).tiers[0]?.counters?.droppedBlocks).toBe(2n)
  })

  it('are wanted only as far as they fit', async () => {
    const host = await startHost(3 * 768)
    const device = await startDevice(host)
    await generate(device, 'first', promptOf(160))
    expect(device.serving.device.holder.evict(false)).toBe(10)
    await expect.poll(() => heldBy(host).length).toBe(3)
    const [fill] = host.loadReport(1n).tiers
    expect(fill?.cachedBytes).toBe(3n * 768n)
  })
})

describe('a device that offers blocks and does not send them', () => {
  it('is waited for once, not for each of its offers, and what it offered is wanted again', async () => {
    const host = await startHost(1 << 20, { fetchSilenceMs: 1_000 })
    let pulls = 0
    const pull = bidi(async (_incoming: AsyncIterable<unknown>, { signal }) => {
      pulls += 1
      await withSignal(new Promise(() => {}), signal)
    })
    const implementation = { ...kvTransferService(host.device), pull }
    const services = [{ definition: KvServiceService, implementation }]
    const silent = await startRpcServer({ host: '127.0.0.1', port: 0, services })
    closing.push(() => silent.close())
    const client = createRpcClient(KvServiceClient, host.control.address)
    closing.push(async () => client.close())
    const offer = async (block: number) => {
      const { wanted } = await callUnary(client, 'offer', {
        ...{ deviceId: 'fpga-0', endpoint: silent.address, modelDigest: 'digest', blockLayerBytes: 256n },
        variant: { numerics: 'PROFILE_EXACT', dtype: 'PRECISION_F32', layers: { first: 0, count: 2 } },
        hashes: [Buffer.alloc(16, block)],
      })
      return wanted.length
    }
    for (let block = 0; block < 8; block += 1) expect(await offer(block)).toBe(1)
    expect(await offer(7)).toBe(0)
    await expect.poll(() => offer(7), { timeout: 3_000 }).toBe(1)
    expect(pulls).toBeLessThanOrEqual(2)
  })
})

describe('blocks of one prompt in two variants, which have the same hashes', () => {
  const VARIANTS = {
    exact: { numerics: 'PROFILE_EXACT', dtype: 'PRECISION_F32', layers: { first: 0, count: 2 } },
    paper: { numerics: 'PROFILE_PAPER', dtype: 'PRECISION_INT8', layers: { first: 0, count: 2 } },
  } as const

  it('are promised room of their own, all of which is free again when neither comes', async () => {
    const host = await startHost(1_024, { fetchSilenceMs: 200 })
    let pulls = 0
    const pull = bidi(async (_incoming: AsyncIterable<unknown>, { signal }) => {
      pulls += 1
      await withSignal(new Promise(() => {}), signal)
    })
    const implementation = { ...kvTransferService(host.device), pull }
    const silent = await startRpcServer({
      host: '127.0.0.1',
      port: 0,
      services: [{ definition: KvServiceService, implementation }],
    })
    closing.push(() => silent.close())
    const client = createRpcClient(KvServiceClient, host.control.address)
    closing.push(async () => client.close())
    const offer = async (deviceId: string, variant: keyof typeof VARIANTS, ...blocks: number[]) => {
      const { wanted } = await callUnary(client, 'offer', {
        ...{ deviceId, endpoint: silent.address, modelDigest: 'digest', variant: VARIANTS[variant] },
        blockLayerBytes: variant === 'exact' ? 256n : 64n,
        hashes: blocks.map((block) => Buffer.alloc(16, block)),
      })
      return wanted.length
    }
    expect(await offer('fpga-0', 'paper', 1)).toBe(1)
    await expect.poll(() => pulls).toBe(1)
    // Waits for the first one.
    expect(await offer('fpga-0', 'exact', 1)).toBe(1)
    // Two of 512 bytes take the whole tier.
    await expect.poll(() => offer('gpu-1', 'exact', 2, 3), { timeout: 5_000, interval: 100 }).toBe(2)
  })
})

describe('a host tier that is behind the directory', () => {
  it('costs a refused pull and a recomputation', async () => {
    const host = await startHost()
    const device = await startDevice(host)
    const prompt = promptOf(100)
    const from = { deviceId: 'host-0', endpoint: host.kv.address, tokens: 96 }
    const story = await generate(device, 'stale', prompt, from)
    expect(story.tokens).toEqual(expectedTokens(prompt, 8))
    expect(story.started?.reuse).toMatchObject({
      fetchedTokens: 0,
      problem: expect.stringContaining('no longer has'),
    })
    await host.close()
    const other = promptOf(100, 2)
    const dead = await generate(device, 'dead', other, from)
    expect(dead.tokens).toEqual(expectedTokens(other, 8))
    expect(dead.started?.reuse).toMatchObject({
      fetchedTokens: 0,
      problem: expect.stringContaining('host-0'),
    })
  })
})
