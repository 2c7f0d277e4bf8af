/**
 * The receiver's side of one KV transfer: opens the Pull, checks every chunk, writes it
 * where it belongs and acknowledges it.
 *
 * Invariants:
 * G1 Nothing is written that was not checked: checksum, order, place and size (I7).
 * G2 A chunk is acknowledged when it is written, in order.
 * G3 When `pullKv` settles no write is under way.
 * G4 Its errors name the device they come from: CorruptDataError where data is damaged,
 *    else UnreachableError, unless this side gave up itself.
 */
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import {
  type KvChunk,
  type Lease,
  PullContent,
  type PullManifest,
  type PullResponse,
  PullTiming,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import { recycle } from '@kvasir/runtime/bulk-buffers'
import type { Clock } from '@kvasir/runtime/clock'
import { withDeadline } from '@kvasir/runtime/deferred'
import {
  CorruptDataError,
  DeadlineError,
  KvasirError,
  NotFoundError,
  UnreachableError,
} from '@kvasir/runtime/errors'
import type { KvPullClient } from '@kvasir/runtime/kv-bulk'
import { type BidiCall, callBidi } from '@kvasir/runtime/rpc-client'
import type { KvShape } from './block-holder.js'
import { checksumOf } from './checksum.js'
import { blocksForTokens } from './core/block-allocator.js'
import { hashBytes, variantKey } from './kv-index.js'
import type { Run } from './ready-blocks.js'

/** How long the source may take to end its side once everything is here. */
const END_MS = 5_000

/** What is asked for: the blocks of a sequence from one of them on, or cached ones by hash. */
export type WantedKv =
  | {
      readonly transferId: string
      readonly timing: PullTiming
      /** Tokens of the sequence whose KV is sent. */
      readonly tokens: number
      /** Blocks before this one are here. */
      readonly firstBlock: number
      readonly content: PullContent
    }
  | { readonly hashes: readonly string[] }

export interface IncomingOptions {
  readonly client: KvPullClient
  readonly sourceDeviceId: string
  readonly wanted: WantedKv
  readonly shape: KvShape
  /** Of this side; for the source it is only a name. */
  readonly lease: Lease
  readonly windowBytes: number
  /**
   * Writes a run from a part of a message; blocks count from the first of the sequence, or of those asked for.
   * `owned`: nobody else will use the buffer that `data` is a part of; else it is used again once this settles.
   */
  readonly write: (run: Run, data: Uint8Array, owned: boolean) => Promise<void>
  readonly clock: Clock
  /** Longest silence of the source, prefill's queue included. */
  readonly silenceMs: number
  /** Aborts when the sequence ends on this side. */
  readonly signal: AbortSignal
}

export interface ReceivedKv {
  readonly bytes: number
  readonly chunks: number
  /** Blocks of the sequence that are here now, those that were before included; for cached ones: leading ones received. */
  readonly blocks: number
  /** From the first chunk to the last, microseconds. */
  readonly elapsedUs: number
  readonly firstToken: number
}

export async function pullKv(options: IncomingOptions): Promise<ReceivedKv> {
  // Once everything is here the source may end its side, whatever becomes of the sequence.
  const leaving = new AbortController()
  const leave = () => leaving.abort(options.signal.reason)
  if (options.signal.aborted) leave()
  else options.signal.addEventListener('abort', leave, { once: true })
  const call = callBidi(options.client, 'pull', { signal: leaving.signal })
  const writer = new ChunkWriter(options, (sequence) =>
    call.send({ message: { $case: 'ack', value: { sequence } } }),
  )
  try {
    await call.send({ message: { $case: 'open', value: openOf(options) } })
    const end = await readMessages(call.messages, options, writer)
    await writer.finished()
    const received = writer.complete(end)
    call.end()
    void drainRest(call)
    return { ...received, elapsedUs: writer.elapsedUs, firstToken: end.firstToken }
  } catch (thrown) {
    call.cancel()
    await writer.finished().catch(() => {})
    options.signal.throwIfAborted()
    throw sourceError(thrown, options)
  } finally {
    options.signal.removeEventListener('abort', leave)
  }
}

function openOf({ wanted, shape, lease, windowBytes }: IncomingOptions) {
  const common = { receiverLease: lease, windowBytes: BigInt(windowBytes) }
  if ('hashes' in wanted) {
    const { modelDigest, variant } = shape
    const cached = { modelDigest, variant, hashes: wanted.hashes.map(hashBytes) }
    return { ...common, transferId: '', timing: PullTiming.LAYERED, cached }
  }
  const { transferId, timing, firstBlock, content } = wanted
  return { ...common, transferId, timing, firstBlock, content }
}

interface End {
  readonly chunks: bigint
  readonly bytes: bigint
  readonly firstToken: number
}

async function readMessages(
  messages: AsyncIterableIterator<PullResponse>,
  options: IncomingOptions,
  writer: ChunkWriter,
): Promise<End> {
  let manifest: PullManifest | undefined
  for (;;) {
    const next = await withDeadline(messages.next(), options.silenceMs, 'waiting for KV')
    if (next.done === true) throw corrupt('The transfer stopped without an end', options)
    const { message } = next.value
    switch (message?.$case) {
      case 'manifest':
        checkManifest(message.value, options)
        manifest = message.value
        writer.expect(manifest)
        break
      case 'chunk':
        if (manifest === undefined) throw corrupt('A chunk came before the manifest', options)
        await writer.write(message.value)
        break
      case 'end':
        return message.value
      default:
        throw corrupt('A message of the transfer is empty', options)
    }
  }
}

function checkManifest(manifest: PullManifest, options: IncomingOptions): void {
  const { shape, wanted } = options
  const { tokens, blocks, variant } = manifest
  const asked = 'hashes' in wanted ? wanted.hashes.length : undefined
  const wrong =
    manifest.modelDigest !== shape.modelDigest
      ? 'another model'
      : manifest.blockTokens !== BLOCK_TOKENS
        ? `blocks of ${manifest.blockTokens} tokens`
        : variant === undefined || variantKey(variant) !== variantKey(shape.variant)
          ? 'blocks of another variant'
          : asked !== undefined && (blocks === undefined || blocks < 1 || blocks > asked)
            ? `${blocks} blocks where ${asked} were asked for`
            : 'tokens' in wanted && tokens !== wanted.tokens
              ? `${tokens} tokens instead of ${wanted.tokens}`
              : undefined
  if (wrong !== undefined) throw corrupt(`The source announces ${wrong}`, options)
}

/** Lets the stream come to its end, so that the transport forgets it. */
async function drainRest({ messages, cancel }: BidiCall<unknown, PullResponse>): Promise<void> {
  const rest = async () => {
    while ((await messages.next()).done !== true);
  }
  // Everything is here; how the source ends its side no longer matters.
  await withDeadline(rest(), END_MS, 'waiting for the end of a transfer').catch(cancel)
}

/** A smaller message may share its buffer with others; a larger one has one of its own. */
const OWN_BUFFER_BYTES = 64 << 10

/** This side could not take a chunk, which is no fault of the source. */
class WriteFailed extends Error {}

/** K and V, or bounds: how far each layer has come. */
interface Plane {
  readonly unitBytes: number
  /** Blocks that there will be of each layer. */
  readonly blocks: number
  readonly received: number[]
}

/** Checks chunks and writes them; writes overlap, acknowledgements keep the order. */
class ChunkWriter {
  private nextSequence = 1n
  private bytes = 0
  private firstAtMs: number | undefined
  private lastAtMs = 0
  /** undefined where none are wanted; both until the manifest is here. */
  private kv: Plane | undefined
  private bounds: Plane | undefined
  private blocks = 0
  /** Settles when every chunk so far is written and acknowledged. */
  private tail: Promise<void> = Promise.resolve()
  private failed: { readonly error: unknown } | undefined

  constructor(
    private readonly options: IncomingOptions,
    private readonly acknowledge: (sequence: bigint) => Promise<void>,
  ) {}

  get elapsedUs(): number {
    return Math.round((this.lastAtMs - (this.firstAtMs ?? this.lastAtMs)) * 1_000)
  }

  /** What will come. */
  expect(manifest: PullManifest): void {
    const { wanted, shape } = this.options
    const cached = 'hashes' in wanted
    const firstBlock = cached ? 0 : wanted.firstBlock
    const content = cached ? PullContent.KV : wanted.content
    const tokens = cached ? (manifest.blocks ?? 0) * BLOCK_TOKENS : wanted.tokens
    const plane = (unitBytes: number, blocks: number): Plane => ({
      unitBytes,
      blocks: Math.max(blocks, firstBlock),
      received: new Array<number>(shape.layers).fill(firstBlock),
    })
    this.blocks = blocksForTokens(tokens)
    if (content !== PullContent.BOUNDS) this.kv = plane(shape.blockLayerBytes, this.blocks)
    if (content === PullContent.BOUNDS || content === PullContent.KV_AND_BOUNDS) {
      this.bounds = plane(shape.boundsBytes, Math.floor(tokens / BLOCK_TOKENS))
    }
  }

  /** Starts the writes of a chunk that is in order. Throws CorruptDataError, or the error of an earlier write. */
  async write(chunk: KvChunk): Promise<void> {
    if (this.failed !== undefined) throw this.failed.error
    this.lastAtMs = this.options.clock.nowMs()
    this.firstAtMs ??= this.lastAtMs
    this.check(chunk)
    const owned = chunk.segments.length === 1 && chunk.data.buffer.byteLength >= OWN_BUFFER_BYTES
    const writes = Promise.allSettled(this.writeSegments(chunk, owned))
    this.tail = this.tail
      .then(async () => {
        for (const write of await writes)
          if (write.status === 'rejected') throw new WriteFailed('', { cause: write.reason })
        if (!owned) recycle(chunk.data)
        await this.acknowledge(chunk.sequence)
      })
      .catch((error: unknown) => {
        this.failed ??= { error }
      })
  }

  /** Resolves when no write is under way; throws where one failed. */
  async finished(): Promise<void> {
    await this.tail
    if (this.failed !== undefined) throw this.failed.error
  }

  /** What was received, which must be everything. */
  complete(end: End): { readonly bytes: number; readonly chunks: number; readonly blocks: number } {
    const chunks = Number(this.nextSequence - 1n)
    const planes = [this.kv, this.bounds].filter((plane) => plane !== undefined)
    const whole = planes.every(({ received, blocks }) => received.every((count) => count === blocks))
    if (planes.length === 0 || !whole || end.chunks !== BigInt(chunks) || end.bytes !== BigInt(this.bytes)) {
      throw corrupt(`The source ended after ${chunks} chunks, but blocks are missing`, this.options)
    }
    return { bytes: this.bytes, chunks, blocks: this.blocks }
  }

  private check(chunk: KvChunk): void {
    const { options } = this
    if (chunk.sequence !== this.nextSequence) {
      throw corrupt(`Chunk ${chunk.sequence} came instead of chunk ${this.nextSequence}`, options)
    }
    if (checksumOf(chunk.data) !== chunk.checksum) {
      throw corrupt(`Chunk ${chunk.sequence} does not match its checksum`, options)
    }
    let bytes = 0
    for (const { layer, firstBlock, blockCount, bounds } of chunk.segments) {
      const plane = this.plane(bounds)
      const fits = plane !== undefined && blockCount > 0 && firstBlock + blockCount <= plane.blocks
      if (!fits || plane.received[layer] !== firstBlock) {
        throw corrupt(`Chunk ${chunk.sequence} has blocks out of place`, options)
      }
      plane.received[layer] = firstBlock + blockCount
      bytes += blockCount * plane.unitBytes
    }
    if (bytes !== chunk.data.byteLength) {
      throw corrupt(`Chunk ${chunk.sequence} has the wrong size`, options)
    }
    this.nextSequence += 1n
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
      return this.options.write({ layer, first: firstBlock, count: blockCount, bounds }, data, owned)
    })
  }
}

function corrupt(what: string, options: IncomingOptions): CorruptDataError {
  const ids = idsOf(options)
  return new CorruptDataError(`${what} (from device ${options.sourceDeviceId}); ${adviceFor(options)}.`, {
    ids,
  })
}

function adviceFor({ wanted }: IncomingOptions): string {
  return 'hashes' in wanted ? 'compute the blocks instead' : 'place the request anew'
}

function idsOf({ sourceDeviceId, wanted }: IncomingOptions): Record<string, string> {
  const transfer = 'transferId' in wanted ? { transferId: wanted.transferId } : {}
  return { deviceId: sourceDeviceId, ...transfer }
}

/** Whatever ended the transfer, as a fault of the source, so that the coordinator knows whom to avoid. */
function sourceError(thrown: unknown, options: IncomingOptions): KvasirError {
  const { sourceDeviceId } = options
  if (thrown instanceof WriteFailed) return KvasirError.from(thrown.cause)
  const error = KvasirError.from(thrown)
  const ids = { ...idsOf(options), sourceCode: error.code }
  if (error instanceof CorruptDataError) return new CorruptDataError(error.message, { ids, cause: error })
  if (error instanceof NotFoundError && 'hashes' in options.wanted) return error
  const what =
    error instanceof DeadlineError ? 'sent no KV for too long' : `could not send the KV (${error.message})`
  return new UnreachableError(`Device ${sourceDeviceId} ${what}; ${adviceFor(options)}.`, {
    ids,
    cause: error,
  })
}
