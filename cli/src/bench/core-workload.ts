/**
 * What `kvasir bench core` gives the coordinator's core to decide on: a large cluster, a full directory, and
 * long prompts of which a part is cached. The same in every run.
 *
 * The cached part of a prompt is its beginning. Conversations are as long as 10 to 70 % of a prompt, evenly
 * spread, 40 % on average. Each begins with one of a few system prompts, which many devices hold; the rest is
 * on the device that prefilled it and on the one that decoded it, which holds only the first half of every
 * second one and lacks a single inner block of every tenth.
 */

import {
  type BlockHashes,
  HASH_WORDS,
  hashCount,
  hashRange,
  NO_HASHES,
} from '@kvasir/coordinator/core/block-hashes'
import type { DeviceFacts, LoadFacts, ModelFacts } from '@kvasir/coordinator/core/facts'
import type { CoordinatorEvent } from '@kvasir/coordinator/core/protocol'

export const BLOCK_TOKENS = 16
/** 100 Gbit/s. */
export const linkBytesPerSecond = 12.5e9
const hitShare = 0.4
const hitSpread = 0.3
const systemPrompts = 40
const systemBlocks = 10
const systemHolders = 25

/** About Llama-3.2-1B. */
export const model: ModelFacts = {
  name: 'bench',
  digest: 'ab'.repeat(32),
  profile: 'exact',
  numerics: 'f32',
  contextTokensMax: 131_072,
  kvBytesPerToken: 65_536,
  poolBytesPerToken: 65_536,
  layers: 16,
  parameters: 1.24e9,
  weightBytes: 4.9e9,
  variant: 'exact f32 layers 0+16',
  tiers: [],
  compute: [],
}

const kernels = ['page-bounds', 'page-scores', 'top-k', 'partial-attention', 'choose-pages'].map((name) => {
  return { name, version: 1, limits: {} }
})

/** Every fourth device is about an A100, the others are about an Alveo U280. */
export function benchDevice(index: number): DeviceFacts {
  const isGpu = index % 4 === 0
  const common = {
    incarnation: String(index + 1),
    protocolVersion: 1,
    protocolVersionMin: 1,
    models: [{ ...model }],
    kernels,
    modelled: true,
    link: { bytesPerSecond: linkBytesPerSecond, latencyMs: 0.02 },
  }
  if (isGpu) {
    return {
      ...common,
      deviceId: `gpu-${index}`,
      capabilities: ['prefill', 'decode', 'attend'],
      decodeSlots: 32,
      tiers: [{ name: 'hbm', capacityBytes: 80e9, bytesPerSecond: 1_935e9 }],
      compute: [{ precision: 'f32', opsPerSecond: 19.5e12 }],
    }
  }
  return {
    ...common,
    deviceId: `fpga-${index}`,
    capabilities: ['decode', 'prefill', 'attend', 'retrieve'],
    decodeSlots: 8,
    tiers: [
      { name: 'hbm', capacityBytes: 8e9, bytesPerSecond: 460e9 },
      { name: 'ddr', capacityBytes: 32e9, bytesPerSecond: 38e9 },
    ],
    compute: [{ precision: 'f32', opsPerSecond: 1e12 }],
  }
}

/** What runs on the device, as it would report. */
export function benchLoad(device: DeviceFacts, sequence: number, slots: number, kvBytes: number): LoadFacts {
  let left = kvBytes
  const tiers = device.tiers.map(({ name, capacityBytes }) => {
    const leasedBytes = Math.min(left, capacityBytes)
    left -= leasedBytes
    return {
      ...{ name, leasedBytes, capacityBytes, cachedBytes: 0, lookups: 0, hits: 0 },
      ...{ inBytes: 0, outBytes: 0, readBytes: 0, droppedBlocks: 0 },
    }
  })
  const { deviceId, incarnation } = device
  return {
    ...{ deviceId, incarnation, sequence, tiers, models: [], arriving: [] },
    ...{ decodeSlotsUsed: slots, prefillTokensWaiting: 0, leases: slots, draining: false },
  }
}

/** Names of blocks, and conversations made of them. */
export class BenchText {
  readonly #random: () => number
  readonly #systems: BlockHashes[]
  /** Events so far, by device. */
  readonly #sequences = new Map<string, number>()
  /** The cached beginnings of prompts. */
  readonly conversations: BlockHashes[] = []

  constructor(seed: number) {
    this.#random = randomWords(seed)
    this.#systems = Array.from({ length: systemPrompts }, () => this.fresh(systemBlocks))
  }

  /** Blocks that nobody has seen. */
  fresh(count: number): BlockHashes {
    return new Uint32Array(count * HASH_WORDS).map(this.#random)
  }

  /** From 0 up to, not including, `count`. */
  below(count: number): number {
    return this.#random() % count
  }

  /** A prompt of so many blocks that begins like one of the conversations. */
  prompt(blocks: number): BlockHashes {
    const cached = this.conversations[this.below(this.conversations.length)] ?? NO_HASHES
    return joined(cached, this.fresh(blocks - hashCount(cached)))
  }

  /** The device's next event. */
  changed(device: DeviceFacts, stored: BlockHashes, removed = NO_HASHES): CoordinatorEvent {
    const { deviceId, incarnation } = device
    const sequence = (this.#sequences.get(deviceId) ?? 0) + 1
    this.#sequences.set(deviceId, sequence)
    const change = { deviceId, incarnation, sequence, stored, removed, variant: model.variant, tier: 'hbm' }
    return { type: 'kv', change }
  }

  /** Events by which the devices tell of `blocksMax` blocks in all; the conversations are those blocks. */
  *stored(
    devices: readonly DeviceFacts[],
    promptBlocks: number,
    blocksMax: number,
  ): Generator<CoordinatorEvent> {
    const gpus = devices.filter(({ deviceId }) => deviceId.startsWith('gpu'))
    const fpgas = devices.filter(({ deviceId }) => !deviceId.startsWith('gpu'))
    const store = (device: DeviceFacts, hashes: BlockHashes) => this.changed(device, hashes)
    for (const system of this.#systems) {
      for (let holder = 0; holder < systemHolders; holder++) yield store(this.#oneOf(devices), system)
    }
    let blocks = systemPrompts * systemBlocks
    while (blocks < blocksMax) {
      const share = hitShare - hitSpread + (this.below(1_001) / 1_000) * 2 * hitSpread
      const length = Math.min(Math.round(share * promptBlocks) - systemBlocks, blocksMax - blocks)
      const own = this.fresh(length)
      const index = this.conversations.length
      const whole = joined(this.#systems[index % systemPrompts] ?? NO_HASHES, own)
      this.conversations.push(whole)
      blocks += length
      yield store(this.#oneOf(gpus), whole)
      const held = index % 2 === 0 ? hashRange(whole, 0, hashCount(whole) >> 1) : whole
      yield store(this.#oneOf(fpgas), index % 10 === 0 ? withoutInner(held) : held)
    }
  }

  #oneOf(devices: readonly DeviceFacts[]): DeviceFacts {
    const device = devices[this.below(devices.length)]
    if (device === undefined) throw new RangeError('A bench of the core needs devices of both kinds.')
    return device
  }
}

function joined(first: BlockHashes, second: BlockHashes): BlockHashes {
  const both = new Uint32Array(first.length + second.length)
  both.set(first)
  both.set(second, first.length)
  return both
}

/** Without a block half-way. */
function withoutInner(hashes: BlockHashes): BlockHashes {
  const half = hashCount(hashes) >> 1
  return joined(hashRange(hashes, 0, half), hashRange(hashes, half + 1))
}

/** Whole numbers below 2^32, the same in every run. */
function randomWords(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return (mixed ^ (mixed >>> 14)) >>> 0
  }
}
