/**
 * Checks chunks of KV as they come and writes them where they belong, whoever sends them.
 *
 * Invariants:
 * W1 Nothing is written that was not checked: checksum, order, place and size (I7).
 * W2 Writes overlap; `written` is called for one chunk after the other, in order.
 * W3 Within a layer blocks come in order, each once.
 */
import type { KvChunk } from '@kvasir/proto/kvasir/kv/v1/kv'
import { recycle } from '@kvasir/runtime/bulk-buffers'
import type { Clock } from '@kvasir/runtime/clock'
import type { CorruptDataError } from '@kvasir/runtime/errors'
import { checksumOf } from './checksum.js'
import type { Run } from './ready-blocks.js'

/** A smaller message may share its buffer with others; a larger one has one of its own. */
const OWN_BUFFER_BYTES = 64 << 10

/** This side could not take a chunk, which is no fault of the sender: the cause says why. */
export class WriteFailed extends Error {}

/**
 * Writes a run from a part of a message; blocks count from the first that is expected, or of the sequence.
 * `owned`: nobody else will use the buffer that `data` is a part of; else it is used again once this settles.
 */
export type WriteRun = (run: Run, data: Uint8Array, owned: boolean) => Promise<void>

export interface ChunkWriterParts {
  readonly layers: number
  readonly write: WriteRun
  readonly clock: Clock
  /** A chunk is in memory. */
  written(sequence: bigint): Promise<void>
  /** The error for a chunk that is not what it should be. */
  corrupt(what: string): CorruptDataError
}

/** What comes of each layer: K and V, or bounds. */
export interface ExpectedBlocks {
  readonly unitBytes: number
  readonly firstBlock: number
  /** The number of the last one, plus 1. */
  readonly blocks: number
  /** Those before this one may be left out. */
  readonly optionalBlocks?: number
}

interface Plane extends ExpectedBlocks {
  /** How far each layer has come. */
  readonly received: number[]
}

export class ChunkWriter {
  /** Of the chunks so far. */
  bytes = 0
  chunks = 0
  private firstAtMs: number | undefined
  private lastAtMs = 0
  private kv: Plane | undefined
  private bounds: Plane | undefined
  /** Settles when every chunk so far is written. */
  private tail: Promise<void> = Promise.resolve()
  private failed: { readonly error: unknown } | undefined

  constructor(private readonly parts: ChunkWriterParts) {}

  /** From the first chunk to the last, microseconds. */
  get elapsedUs(): number {
    return Math.round((this.lastAtMs - (this.firstAtMs ?? this.lastAtMs)) * 1_000)
  }

  /** Whether everything that is expected has come, which is something. */
  get isWhole(): boolean {
    const planes = [this.kv, this.bounds].filter((plane) => plane !== undefined)
    return (
      planes.length > 0 &&
      planes.every(({ received, blocks, optionalBlocks = 0 }) =>
        received.every((count) => Math.max(count, optionalBlocks) === blocks),
      )
    )
  }

  /** Called once, before the first chunk. */
  expect(kv: ExpectedBlocks | undefined, bounds: ExpectedBlocks | undefined): void {
    const plane = (expected: ExpectedBlocks | undefined): Plane | undefined =>
      expected && {
        ...expected,
        received: new Array<number>(this.parts.layers).fill(expected.firstBlock),
      }
    this.kv = plane(kv)
    this.bounds = plane(bounds)
  }

  /**
   * Starts the writes of a chunk that is in order; the promise says when they and all before them are over, and
   * never rejects. Throws CorruptDataError, or the error of an earlier write.
   */
  write(chunk: KvChunk): { readonly over: Promise<void> } {
    if (this.failed !== undefined) throw this.failed.error
    this.lastAtMs = this.parts.clock.nowMs()
    this.firstAtMs ??= this.lastAtMs
    this.check(chunk)
    const owned = chunk.segments.length === 1 && chunk.data.buffer.byteLength >= OWN_BUFFER_BYTES
    const writes = Promise.allSettled(this.writeSegments(chunk, owned))
    this.tail = this.tail
      .then(async () => {
        for (const write of await writes)
          if (write.status === 'rejected') throw new WriteFailed('', { cause: write.reason })
        if (!owned) recycle(chunk.data)
        await this.parts.written(chunk.sequence)
      })
      .catch((error: unknown) => {
        this.failed ??= { error }
      })
    return { over: this.tail }
  }

  /** Resolves when no write is under way; throws where one failed. */
  async finished(): Promise<void> {
    await this.tail
    if (this.failed !== undefined) throw this.failed.error
  }

  private check(chunk: KvChunk): void {
    const { parts } = this
    if (chunk.sequence !== BigInt(this.chunks + 1)) {
      throw parts.corrupt(`Chunk ${chunk.sequence} came instead of chunk ${this.chunks + 1}`)
    }
    if (checksumOf(chunk.data) !== chunk.checksum) {
      throw parts.corrupt(`Chunk ${chunk.sequence} does not match its checksum`)
    }
    let bytes = 0
    for (const { layer, firstBlock, blockCount, bounds } of chunk.segments) {
      const plane = this.plane(bounds)
      const fits = plane !== undefined && blockCount > 0 && firstBlock + blockCount <= plane.blocks
      if (!fits || !follows(plane, layer, firstBlock)) {
        throw parts.corrupt(`Chunk ${chunk.sequence} has blocks out of place`)
      }
      plane.received[layer] = firstBlock + blockCount
      bytes += blockCount * plane.unitBytes
    }
    if (bytes !== chunk.data.byteLength) throw parts.corrupt(`Chunk ${chunk.sequence} has the wrong size`)
    this.chunks += 1
    this.bytes += bytes
  }

  private plane(bounds: boolean | undefined): Plane | undefined {
    return bounds === true ? this.bounds : this.kv
  }

  private writeSegments(chunk: KvChunk, owned: boolean): Promise<void>[] {
    let offset = 0
    return chunk.segments.map(({ layer, firstBlock, blockCount, bounds = false }) => {
      const bytes = blockCount * (this.plane(bounds)?.unitBytes ?? 0)
      // Not a Buffer, whose slice is no copy.
      const data = new Uint8Array(chunk.data.buffer, chunk.data.byteOffset + offset, bytes)
      offset += bytes
      return this.parts.write({ layer, first: firstBlock, count: blockCount, bounds }, data, owned)
    })
  }
}

function follows({ received, optionalBlocks = 0 }: Plane, layer: number, firstBlock: number): boolean {
  const next = received[layer]
  return next === firstBlock || (next !== undefined && next < optionalBlocks && firstBlock === optionalBlocks)
}
