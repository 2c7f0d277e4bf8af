/** A device with two memories and a real model: what moves between them keeps its bytes, and the text stays. */
import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { DriverFactory } from './definition.js'
import { shapeOf } from './kv-shape.js'
import { ortFactory } from './ort-factory.js'
import { cachedDigests } from './testing/cached-bytes.js'
import {
  onlyModel,
  promptOf,
  readDecode,
  TestDevice,
  type TestDeviceOptions,
} from './testing/test-devices.js'

const NEAR_BLOCKS = 8
const MAX_TOKENS = 60

/** Of each block that was moved, its bytes of every layer before and after. */
interface Moved {
  readonly before: Promise<Uint8Array>[]
  readonly after: Promise<Uint8Array>[]
}

/** The real driver, which also reads what it moves. */
function watched(moves: Moved[]): DriverFactory {
  return {
    ...ortFactory,
    async create(options) {
      const driver = await ortFactory.create(options)
      return {
        ...driver,
        async loadModel(load) {
          const model = await driver.loadModel(load)
          const layers = Array.from({ length: model.facts.layers }, (_, layer) => layer)
          return {
            ...model,
            copyBlocks(from, to) {
              const before = layers.map((layer) => model.readBlocks(layer, from))
              const copied = model.copyBlocks(from, to)
              moves.push({ before, after: layers.map((layer) => model.readBlocks(layer, to)) })
              return copied
            },
          }
        },
      }
    },
  }
}

let plain: TestDevice
const started: TestDevice[] = []

async function start(
  deviceId: string,
  options: Omit<TestDeviceOptions, 'deviceId' | 'real'> = {},
  driver = ortFactory,
): Promise<TestDevice> {
  const device = await TestDevice.start({
    deviceId,
    real: { driver, model: 'dummy:llama-tiny' },
    ...options,
  })
  started.push(device)
  return device
}

beforeAll(async () => {
  plain = await start('gpu-0')
})
afterAll(() => Promise.all(started.map((device) => device.stop())))

async function generate(device: TestDevice, id: string, prompt: number[], maxTokens = MAX_TOKENS) {
  const lease = await device.reserve(id, prompt.length + maxTokens, 1, device.hashes(prompt))
  return readDecode(device.decode(id, lease, prompt, { maxTokens }))
}

function digests(device: TestDevice, hashes: readonly string[]): Promise<string[]> {
  return cachedDigests(device.serving.kv.address, shapeOf(onlyModel(device.serving)), hashes)
}

function digestOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

describe.each(['reactive', 'balanced', 'static'] as const)('a device with the %s policy', (tierPolicy) => {
  it('moves blocks between its memories, with their bytes, and gives the same text', async () => {
    const moves: Moved[] = []
    const tiers = { blocks: NEAR_BLOCKS, farBlocks: 64, tierPolicy }
    const device = await start(`fpga-${tierPolicy}`, tiers, watched(moves))
    const prompts = [promptOf(70), promptOf(90, 2), promptOf(110, 3)]
    const expected = await Promise.all(
      prompts.map((prompt, i) => generate(plain, `${tierPolicy}-${i}`, prompt)),
    )
    const first = prompts[0] ?? []
    await generate(device, 'before', first, 1)
    const before = await digests(device, device.hashes(first))
    expect(before).toHaveLength(4)
    const stories = await Promise.all(prompts.map((prompt, i) => generate(device, `run-${i}`, prompt)))
    expect(stories.map(({ tokens }) => tokens)).toEqual(expected.map(({ tokens }) => tokens))
    expect(await digests(device, device.hashes(first))).toEqual(before)
    expect(await digests(plain, device.hashes(first))).toEqual(before)

    const reads = stories.flatMap(({ finished }) => finished?.reads ?? [])
    const sum = (of: 'readBytes' | 'movedBytes', tier?: string) =>
      reads
        .filter((read) => tier === undefined || read.tier === tier)
        .reduce((all, read) => all + read[of], 0n)
    expect(new Set(reads.map(({ tier }) => tier))).toEqual(new Set(['hbm', 'ddr']))
    expect(sum('readBytes', 'hbm')).toBeGreaterThan(0n)
    expect(sum('readBytes', 'ddr')).toBeGreaterThan(0n)
    if (tierPolicy === 'static') expect(sum('movedBytes')).toBe(0n)
    else expect(sum('movedBytes')).toBeGreaterThan(0n)
    expect(moves.length > 0).toBe(tierPolicy !== 'static')
    for (const { before, after } of moves) {
      expect((await Promise.all(after)).map(digestOf)).toEqual((await Promise.all(before)).map(digestOf))
    }
    const [hbm, ddr] = device.serving.loadReport(1n).tiers
    expect([hbm?.name, ddr?.name]).toEqual(['hbm', 'ddr'])
    await device.empty()
  })
})
