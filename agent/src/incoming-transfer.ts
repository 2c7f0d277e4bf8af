/**
 * The receiver's side of one KV transfer: opens the Pull, checks every chunk, writes it
 * into the device and acknowledges it.
 *
 * Invariants:
 * G1 Nothing is written that was not checked: checksum, order, place and size (I7).
 * G2 A chunk is acknowledged when it is in the device, in order.
 * G3 When `pullKv` settles no write is under way.
 * G4 Its errors name the device they come from: CorruptDataError where data is damaged,
 *    else UnreachableError, unless this side gave up itself.
 */
import type { DeviceDriver, LoadedModelFacts } from '@kvasir/engine/device-driver'
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import type {
  KvChunk,
  KvServiceClient,
  Lease,
  PullManifest,
  PullResponse,
  PullTiming,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import type { Clock } from '@kvasir/runtime/clock'
import { withDeadline } from '@kvasir/runtime/deferred'
import { CorruptDataError, DeadlineError, KvasirError, UnreachableError } from '@kvasir/runtime/errors'
import { callBidi } from '@kvasir/runtime/rpc-client'
import { checksumOf } from './checksum.js'
import { blocksForTokens } from './core/block-allocator.js'

export interface IncomingOptions {
  readonly client: KvServiceClient
  readonly sourceDeviceId: string
  readonly transferId: string
  readonly timing: PullTiming
  readonly lease: Lease
  readonly windowBytes: number
  readonly model: LoadedModelFacts
  /** Tokens whose KV is expected. */
  readonly tokens: number
  /** Blocks of the lease, at least enough for `tokens`. */
  readonly blocks: readonly number[]
  readonly driver: DeviceDriver
  readonly clock: Clock
  /** Longest silence of the source, prefill's queue included. */
  readonly silenceMs: number
  /** Aborts when the sequence ends on this side. */
  readonly signal: AbortSignal
}

export interface ReceivedKv {
  readonly bytes: number
  readonly chunks: number
  /** From the first chunk to the last, microseconds. */
  readonly elapsedUs: number
  readonly firstToken: number
}

export async function pullKv(options: IncomingOptions): Promise<ReceivedKv> {
  const call = callBidi(options.client, 'pull', { signal: options.signal })
  const writer = new ChunkWriter(options, (sequence) =>
    call.send({ message: { $case: 'ack', value: { sequence } } }),
  )
  const { transferId, lease, windowBytes, timing } = options
  try {
    const open = { transferId, receiverLease: lease, windowBytes: BigInt(windowBytes), timing }
    await call.send({ message: { $case: 'open', value: open } })
    const end = await readMessages(call.messages, options, writer)
    await writer.finished()
    const { bytes, chunks } = writer.complete(end)
    call.end()
    void drainRest(call.messages)
    return { bytes, chunks, elapsedUs: writer.elapsedUs, firstToken: end.firstToken }
  } catch (thrown) {
    call.cancel()
    await writer.finished().catch(() => {})
    options.signal.throwIfAborted()
    throw sourceError(thrown, options)
  }
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
  const { model, tokens } = options
  const { variant } = manifest
  const wrong =
    manifest.modelDigest !== model.digest
      ? 'another model'
      : manifest.tokens !== tokens
        ? `${manifest.tokens} tokens instead of ${tokens}`
        : manifest.blockTokens !== BLOCK_TOKENS
          ? `blocks of ${manifest.blockTokens} tokens`
          : variant?.dtype !== 'PRECISION_F32' ||
              variant.layers?.first !== 0 ||
              variant.layers.count !== model.layers
            ? 'blocks of another variant'
            : undefined
  if (wrong !== undefined) throw corrupt(`The source announces ${wrong}`, options)
}

/** Lets the stream come to its end, so that the transport forgets it. */
async function drainRest(messages: AsyncIterableIterator<PullResponse>): Promise<void> {
  try {
    while ((await messages.next()).done !== true);
  } catch {
    // Everything is here; how the source ends its side no longer matters.
  }
}

/** The device of this side could not take a chunk, which is no fault of the source. */
class WriteFailed extends Error {}

/** Checks chunks and writes them; writes overlap, acknowledgements keep the order. */
class ChunkWriter {
  private nextSequence = 1n
  private bytes = 0
  private firstAtMs: number | undefined
  private lastAtMs = 0
  /** Blocks received of each layer. */
  private readonly received: number[]
  /** Settles when every chunk so far is written and acknowledged. */
  private tail: Promise<void> = Promise.resolve()
  private failed: { readonly error: unknown } | undefined

  constructor(
    private readonly options: IncomingOptions,
    private readonly acknowledge: (sequence: bigint) => Promise<void>,
  ) {
    this.received = new Array<number>(options.model.layers).fill(0)
  }

  get elapsedUs(): number {
    return Math.round((this.lastAtMs - (this.firstAtMs ?? this.lastAtMs)) * 1_000)
  }

  /** Starts the writes of a chunk that is in order. Throws CorruptDataError, or the error of an earlier write. */
  async write(chunk: KvChunk): Promise<void> {
    if (this.failed !== undefined) throw this.failed.error
    this.lastAtMs = this.options.clock.nowMs()
    this.firstAtMs ??= this.lastAtMs
    this.check(chunk)
    const writes = Promise.allSettled(this.writeSegments(chunk))
    this.tail = this.tail
      .then(async () => {
        for (const write of await writes)
          if (write.status === 'rejected') throw new WriteFailed('', { cause: write.reason })
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
  complete(end: End): { readonly bytes: number; readonly chunks: number } {
    const blocks = blocksForTokens(this.options.tokens)
    const chunks = Number(this.nextSequence - 1n)
    const whole = this.received.every((count) => count === blocks)
    if (!whole || end.chunks !== BigInt(chunks) || end.bytes !== BigInt(this.bytes)) {
      throw corrupt(`The source ended after ${chunks} chunks, but blocks are missing`, this.options)
    }
    return { bytes: this.bytes, chunks }
  }

  private check(chunk: KvChunk): void {
    const { options } = this
    const { blockLayerBytes, layers } = options.model
    if (chunk.sequence !== this.nextSequence) {
      throw corrupt(`Chunk ${chunk.sequence} came instead of chunk ${this.nextSequence}`, options)
    }
    if (checksumOf(chunk.data) !== chunk.checksum) {
      throw corrupt(`Chunk ${chunk.sequence} does not match its checksum`, options)
    }
    const blocksMax = blocksForTokens(options.tokens)
    let blocks = 0
    for (const { layer, firstBlock, blockCount } of chunk.segments) {
      const expected = this.received[layer]
      const fits = layer < layers && blockCount > 0 && firstBlock + blockCount <= blocksMax
      if (!fits || expected !== firstBlock) {
        throw corrupt(`Chunk ${chunk.sequence} has blocks out of place`, options)
      }
      this.received[layer] = firstBlock + blockCount
      blocks += blockCount
    }
    if (blocks * blockLayerBytes !== chunk.data.byteLength) {
      throw corrupt(`Chunk ${chunk.sequence} has the wrong size`, options)
    }
    this.nextSequence += 1n
    this.bytes += chunk.data.byteLength
  }

  private writeSegments(chunk: KvChunk): Promise<void>[] {
    const { driver, model, blocks } = this.options
    let offset = 0
    return chunk.segments.map(({ layer, firstBlock, blockCount }) => {
      const bytes = blockCount * model.blockLayerBytes
      // The driver may take the buffer: each segment gets bytes that nobody else uses.
      const data = new Uint8Array(bytes)
      data.set(chunk.data.subarray(offset, offset + bytes))
      offset += bytes
      return driver.writeBlocks(
        layer,
        Uint32Array.from(blocks.slice(firstBlock, firstBlock + blockCount)),
        data,
      )
    })
  }
}

function corrupt(what: string, { sourceDeviceId, transferId }: IncomingOptions): CorruptDataError {
  return new CorruptDataError(`${what} (from device ${sourceDeviceId}); place the request anew.`, {
    ids: { deviceId: sourceDeviceId, transferId },
  })
}

/** Whatever ended the transfer, as a fault of the source, so that the coordinator knows whom to avoid. */
function sourceError(thrown: unknown, { sourceDeviceId, transferId }: IncomingOptions): KvasirError {
  if (thrown instanceof WriteFailed) return KvasirError.from(thrown.cause)
  const error = KvasirError.from(thrown)
  const ids = { deviceId: sourceDeviceId, transferId, sourceCode: error.code }
  if (error instanceof CorruptDataError) return new CorruptDataError(error.message, { ids, cause: error })
  const what =
    error instanceof DeadlineError ? 'sent no KV for too long' : `could not send the KV (${error.message})`
  return new UnreachableError(`Device ${sourceDeviceId} ${what}; place the request anew.`, {
    ids,
    cause: error,
  })
}
