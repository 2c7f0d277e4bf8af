import { fastify } from 'fastify'
import { describe, expect, test } from 'vitest'
import type { KvReport } from '../generation.js'
import { registerKvRoutes } from './kv-routes.js'
import { scriptedService } from './testing/scripted-service.js'

const device = (deviceId: string, state: 'ready' | 'lost' = 'ready'): KvReport['devices'][number] => ({
  deviceId,
  kind: 'gpu',
  state,
  directoryBlocks: 0,
  tiers: [
    {
      name: 'hbm',
      kind: 'hbm',
      capacityBytes: 100,
      leasedBytes: 0,
      cachedBytes: 0,
      bandwidthBytesPerSecond: 1,
      modelled: false,
      lookups: 0,
      hits: 0,
      hitRate: null,
      inBytes: 0,
      outBytes: 0,
      readBytes: 0,
      droppedBlocks: 0,
    },
  ],
})

const gpu = device('host-0')
const hostDevice = { ...gpu, kind: 'host', tiers: gpu.tiers.map((tier) => ({ ...tier, kind: 'host-dram' })) }

function app() {
  const service = scriptedService()
  const asked: { deviceIds: readonly string[]; drop: boolean }[] = []
  service.kv = () => ({
    directory: { blocks: 1, blocksMax: 10, droppedBlocks: 0, healing: [] },
    devices: [device('gpu-0'), device('fpga-0'), device('fpga-1', 'lost'), hostDevice],
  })
  service.evict = async (deviceIds, drop) => {
    asked.push({ deviceIds, drop })
    return deviceIds.map((deviceId) => ({ deviceId, blocks: 2, error: null }))
  }
  const server = fastify()
  registerKvRoutes(server, service)
  return { server, asked }
}

describe('POST /v1/kv/evict', () => {
  test('asks every device that lives, and hands its blocks to the host tier', async () => {
    const { server, asked } = app()
    const answer = await server.inject({ method: 'POST', url: '/v1/kv/evict' })
    expect(answer.json().devices).toEqual([
      { deviceId: 'gpu-0', blocks: 2, error: null },
      { deviceId: 'fpga-0', blocks: 2, error: null },
    ])
    expect(asked).toEqual([{ deviceIds: ['gpu-0', 'fpga-0'], drop: false }])
  })

  test('asks host memory, behind which there is no other, only where blocks are dropped or it is named', async () => {
    const { server, asked } = app()
    await server.inject({ method: 'POST', url: '/v1/kv/evict', payload: { drop: true } })
    await server.inject({ method: 'POST', url: '/v1/kv/evict', payload: { device: 'host-0' } })
    expect(asked).toEqual([
      { deviceIds: ['gpu-0', 'fpga-0', 'host-0'], drop: true },
      { deviceIds: ['host-0'], drop: false },
    ])
  })

  test('asks the one device that is named, and drops where it is told to', async () => {
    const { server, asked } = app()
    await server.inject({ method: 'POST', url: '/v1/kv/evict', payload: { device: 'fpga-0', drop: true } })
    expect(asked).toEqual([{ deviceIds: ['fpga-0'], drop: true }])
  })

  test('refuses a device that is not there, and a field that it does not know', async () => {
    const { server, asked } = app()
    const unknown = await server.inject({ method: 'POST', url: '/v1/kv/evict', payload: { device: 'x' } })
    expect(unknown.statusCode).toBeGreaterThanOrEqual(400)
    expect(unknown.body).toContain('There is no device')
    const typo = await server.inject({ method: 'POST', url: '/v1/kv/evict', payload: { devise: 'gpu-0' } })
    expect(typo.statusCode).toBeGreaterThanOrEqual(400)
    expect(asked).toEqual([])
  })
})
