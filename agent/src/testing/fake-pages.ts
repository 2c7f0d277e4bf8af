/**
 * The fake device's memory: blocks in wire layout `[K|V][token][head dim]`, one KV head, their bounds, and
 * the kernels over them, all by the plain references of the engine's tests.
 */

import { BM25_LIMITS } from '@kvasir/engine/bm25/bm25'
import { ShardStore } from '@kvasir/engine/bm25/shard-store'
import { BLOCK_TOKENS, type DriverDescription, type PartialAttention } from '@kvasir/engine/device-driver'
import type { KernelInput, KernelName, KernelOutput } from '@kvasir/engine/kernels'
import {
  referenceBounds,
  referencePartial,
  referenceScores,
  referenceTopK,
} from '@kvasir/engine/testing/reference-kernels'
import { InvalidInputError, UnsupportedError } from '@kvasir/runtime/errors'

export const FAKE_HEADS = { heads: 1, kvHeads: 1, headDim: 2 } as const
export const FLOATS_PER_BLOCK = 2 * BLOCK_TOKENS * FAKE_HEADS.headDim

const LIMITS: Readonly<Record<KernelName, Readonly<Record<string, number>>>> = {
  'page-bounds': { pages: 4_096 },
  'page-scores': { pages: 4_096 },
  'top-k': { rows: 64, columns: 65_536 },
  'partial-attention': { pages: 4_096 },
  'choose-pages': { pages: 4_096, rivals: 4_096 },
  'bm25-load': { shardBytes: 64 << 20 },
  'bm25-unload': {},
  'bm25-search': BM25_LIMITS,
}

type KernelTable = {
  readonly [Name in KernelName]: (input: KernelInput<Name>) => KernelOutput<Name>
}

export class FakePages {
  /** By layer: [block][K|V][token][head dim]. */
  private slabs: readonly Float32Array[] = []
  /** By layer and block: bounds that stand. */
  private bounds: readonly Map<number, Float32Array>[] = []
  private blocksMax = 0
  private readonly shards = new ShardStore()
  private readonly kernels: KernelTable = {
    'page-bounds': ({ layer, blocks }) => this.readBounds(layer, blocks),
    'page-scores': ({ layer, q, blocks }) => this.scores(layer, q, blocks),
    'top-k': ({ values, rows, k }) => topK(values, rows, k),
    'partial-attention': ({ layer, q, blocks: [own, ...more] }) => {
      if (own === undefined || more.length > 0)
        throw new InvalidInputError('The fake device has one KV head.')
      return this.attend(layer, q, own)
    },
    'choose-pages': (input) => this.choose(input),
    'bm25-load': ({ key, shard }) => this.shards.load(key, shard),
    'bm25-unload': ({ key }) => void this.shards.unload(key),
    'bm25-search': (search) => this.shards.search(search),
  }

  static readonly kernels: DriverDescription['kernels'] = Object.entries(LIMITS).map(([name, limits]) => ({
    name,
    version: 1,
    limits,
  }))

  allocate(layers: number, blocksMax: number): void {
    this.blocksMax = blocksMax
    this.slabs = Array.from({ length: layers }, () => new Float32Array(blocksMax * FLOATS_PER_BLOCK))
    this.bounds = this.slabs.map(() => new Map())
  }

  get layers(): number {
    return this.slabs.length
  }

  /** The layer's memory, to be written through `drop`. Throws InvalidInputError for a layer that is not there. */
  slab(layer: number): Float32Array {
    const slab = this.slabs[layer]
    if (slab === undefined) throw new InvalidInputError(`The fake device has no layer ${layer}.`)
    return slab
  }

  /** The bounds of a block no longer stand. */
  drop(layer: number, block: number): void {
    this.bounds[layer]?.delete(block)
  }

  read(layer: number, blocks: Uint32Array): Uint8Array {
    this.check(layer, blocks)
    return bytesOf(Array.from(blocks, (block) => this.block(layer, block)))
  }

  write(layer: number, blocks: Uint32Array, data: Uint8Array): void {
    this.check(layer, blocks)
    const floats = floatsOf(data, blocks.length * FLOATS_PER_BLOCK)
    blocks.forEach((block, index) => {
      const from = index * FLOATS_PER_BLOCK
      this.slab(layer).set(floats.subarray(from, from + FLOATS_PER_BLOCK), block * FLOATS_PER_BLOCK)
      this.drop(layer, block)
    })
  }

  copy(from: Uint32Array, to: Uint32Array): void {
    if (from.length !== to.length) throw new InvalidInputError('Copies need as many targets as sources.')
    for (const [layer, bounds] of this.bounds.entries()) {
      const stood = Array.from(from, (block) => bounds.get(block))
      this.write(layer, to, this.read(layer, from))
      for (const [i, own] of stood.entries()) if (own !== undefined) bounds.set(to[i] ?? 0, own)
    }
  }

  readBounds(layer: number, blocks: Uint32Array): Float32Array {
    this.check(layer, blocks)
    return new Float32Array(bytesOf(this.boundsOf(layer, blocks)).buffer)
  }

  writeBounds(layer: number, blocks: Uint32Array, data: Uint8Array): void {
    this.check(layer, blocks)
    const size = 2 * FAKE_HEADS.headDim
    const floats = floatsOf(data, blocks.length * size)
    blocks.forEach((block, index) => {
      this.bounds[layer]?.set(block, floats.slice(index * size, (index + 1) * size))
    })
  }

  run<Name extends KernelName>(name: Name, input: KernelInput<Name>): KernelOutput<Name> {
    if (!Object.hasOwn(this.kernels, name))
      throw new UnsupportedError(`The fake device has no kernel ${name}.`)
    if ('q' in input && input.q.length !== FAKE_HEADS.headDim)
      throw new InvalidInputError('q is of another size.')
    if ('blocks' in input) {
      const lists = input.blocks instanceof Uint32Array ? [input.blocks] : input.blocks
      for (const blocks of lists) {
        checkLimit(name, 'pages', blocks.length)
        this.check(input.layer, blocks)
      }
    }
    if ('shard' in input) checkLimit(name, 'shardBytes', input.shard.length)
    return this.kernels[name](input)
  }

  /** Attention over whole blocks. */
  private attend(layer: number, q: Float32Array, blocks: Uint32Array): PartialAttention {
    return referencePartial(FAKE_HEADS, q, () => Array.from(blocks, (block) => this.block(layer, block)))
  }

  private scores(layer: number, q: Float32Array, blocks: Uint32Array): Float32Array {
    return referenceScores(FAKE_HEADS, q, this.boundsOf(layer, blocks))
  }

  private choose(input: KernelInput<'choose-pages'>): KernelOutput<'choose-pages'> {
    const { layer, q, blocks, pages, rivals, attend } = input
    checkLimit('choose-pages', 'rivals', rivals.length)
    const scores = [...this.scores(layer, q, blocks), ...rivals]
    const chosen = Uint32Array.from(
      referenceTopK(scores, pages === 0 ? scores.length : pages).filter((page) => page < blocks.length),
    )
    const own = chosen.map((page) => blocks[page] ?? 0)
    const partial = attend ? this.attend(layer, q, own) : undefined
    return {
      chosen: [chosen],
      partial,
      mass: partial && [Float32Array.from(own, (block) => this.share(layer, q, block, partial))],
      relevancyUs: 1,
      retrievalUs: 1,
      applyUs: 1,
    }
  }

  /** The weight of one block in attention over several. */
  private share(layer: number, q: Float32Array, block: number, whole: PartialAttention): number {
    const own = this.attend(layer, q, Uint32Array.of(block))
    return ((own.sum[0] ?? 0) * Math.exp((own.max[0] ?? 0) - (whole.max[0] ?? 0))) / (whole.sum[0] ?? 1)
  }

  private boundsOf(layer: number, blocks: Uint32Array): Float32Array[] {
    const standing = this.bounds[layer]
    return Array.from(blocks, (block) => {
      const own = standing?.get(block) ?? referenceBounds(FAKE_HEADS, this.block(layer, block))
      standing?.set(block, own)
      return own
    })
  }

  private block(layer: number, block: number): Float32Array {
    return this.slab(layer).subarray(block * FLOATS_PER_BLOCK, (block + 1) * FLOATS_PER_BLOCK)
  }

  private check(layer: number, blocks: Uint32Array): void {
    this.slab(layer)
    if (blocks.every((block) => block < this.blocksMax)) return
    throw new InvalidInputError(`A block is outside the fake device's pool of ${this.blocksMax}.`)
  }
}

function topK(values: Float32Array, rows: number, k: number): Uint32Array {
  checkLimit('top-k', 'rows', rows)
  const columns = values.length / rows
  if (!Number.isInteger(columns) || k < 0) throw new InvalidInputError('top-k takes whole rows and k from 0.')
  return Uint32Array.from(
    Array.from({ length: rows }, (_, row) =>
      referenceTopK(values.subarray(row * columns, (row + 1) * columns), k),
    ).flat(),
  )
}

function checkLimit(kernel: KernelName, limit: string, size: number): void {
  if (size > (LIMITS[kernel][limit] ?? 0))
    throw new InvalidInputError(`${kernel} does not take ${size} ${limit}.`)
}

function bytesOf(parts: readonly Float32Array[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Float32Array.from(parts.flatMap((part) => [...part])).buffer)
}

function floatsOf(data: Uint8Array, floats: number): Float32Array {
  if (data.byteLength !== floats * Float32Array.BYTES_PER_ELEMENT) {
    throw new InvalidInputError(`${floats} numbers are not ${data.byteLength} bytes.`)
  }
  return new Float32Array(data.slice().buffer)
}
