/**
 * The sender's side of one KV transfer: the blocks of one sequence, sent while they are computed, or blocks
 * that are there already.
 *
 * What is ready goes out at once while nothing is under way; while something is, runs of
 * blocks gather until they fill a chunk. So a fast link gets each group of merged layers as it
 * is computed, a slow one gets full chunks, and what is left after prefill is little.
 *
 * Invariants:
 * T1 Never more than the receiver's window is unacknowledged.
 * T2 The blocks are pinned from before the first read until all is over.
 * T3 It ends once: everything acknowledged, or one error for receiver and owner alike.
 * T4 A receiver that takes a chunk and does not acknowledge it in time is taken for lost (I2).
 */
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import {
  PullContent,
  type PullOpen,
  type PullRequest,
  type PullResponse,
  PullTiming,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import { dispose } from '@kvasir/runtime/bulk-buffers'
import type { Clock } from '@kvasir/runtime/clock'
import { type Deferred, deferred, withSignal } from '@kvasir/runtime/deferred'
import { DeadlineError, InvalidInputError, KvasirError, UnreachableError } from '@kvasir/runtime/errors'
import { scatteredChunk } from '@kvasir/runtime/kv-bulk'
import type { KvShape, ReadRun } from './block-holder.js'
import { checksumOfParts } from './checksum.js'
import { blocksForTokens } from './core/block-allocator.js'
import { mergeLayersOf } from './merge-layers.js'
import type { Pacer } from './pacer.js'
import { ReadyBlocks, type Run } from './ready-blocks.js'
import { TransferTimes } from './transfer-times.js'

/** Data in a full chunk while prefill goes on: little is left to send when it ends. */
export const CHUNK_BYTES = 1 << 20
/** And once everything is there: fewer, larger messages cost less. */
const BULK_CHUNK_BYTES = 2 << 20

/** Chunks with the transport at a time: while one goes out the next is put together. */
const LEAVING_MAX = 3

export interface OutgoingParts {
  /** Empty for cached blocks, which are asked for by hash. */
  readonly transferId: string
  readonly shape: KvShape
  readonly tokens: number
  /** Set where the blocks are cached ones: how many they are. */
  readonly cachedBlocks?: number
  readonly pacer: Pacer
  /** Where the receiver does not say. */
  readonly mergeLayers: number
  readonly clock: Clock
  /** From the hand-over of a chunk, or the acknowledgement before it, to its own. */
  readonly acknowledgeMs: number
  /** The receiver has opened it. */
  opened(): void
  /** Pins the blocks; what comes back reads them. Called once there are blocks. */
  pin(): ReadRun
  unpin(): void
}

export class OutgoingTransfer {
  readonly times: TransferTimes
  /** Settles when everything was acknowledged, or with the error that ended the transfer. */
  readonly done: Deferred<void> = deferred()
  /** Its one receiver has come for it. */
  claimed = false
  /** Layers whose blocks are sent together. */
  mergeLayers: number
  /** Blocks of the sequence that were sent whole: those that the receiver lacked. */
  blocksSent = 0
  /** Tokens that each layer has computed. */
  private readonly computedTokens: number[]
  /** Known with the receiver's wish. */
  private ready: ReadyBlocks | undefined
  private readonly admission: Deferred<void> = deferred()
  private firstToken: number | undefined
  private readonly failure = new AbortController()
  private wake: Deferred<void> | undefined
  private sentChunks = 0n
  private sentBytes = 0
  private readonly unacknowledged: { readonly sequence: bigint; readonly bytes: number }[] = []
  private unacknowledgedBytes = 0
  /** Number of the last chunk that was handed to the transport. */
  private handedOver = 0n
  private acknowledgeTimer: NodeJS.Timeout | undefined
  private receiver = 'the receiver'
  /** Chunks that the transport has and has not yet sent, in order. */
  private readonly leaving: Promise<void>[] = []
  /** Settles when the last chunk was handed over; never rejects. */
  private onItsWay: Promise<void> = Promise.resolve()

  constructor(private readonly parts: OutgoingParts) {
    this.computedTokens = new Array<number>(parts.shape.layers).fill(0)
    this.times = new TransferTimes(parts.clock)
    this.mergeLayers = parts.mergeLayers
  }

  get id(): string {
    return this.parts.transferId
  }

  /** The sequence has its blocks. */
  admitted(): void {
    this.admission.resolve()
  }

  layerComputed(layer: number, tokens: number): void {
    this.computedTokens[layer] = Math.max(this.computedTokens[layer] ?? 0, tokens)
    this.ready?.computed(layer, tokens)
    this.notify()
  }

  /** All layers of the first `tokens` tokens are in the blocks. */
  present(tokens: number): void {
    for (let layer = 0; layer < this.parts.shape.layers; layer += 1) this.layerComputed(layer, tokens)
  }

  /** `firstToken`: what was sampled; 0 where nothing was. */
  prefillEnded(firstToken: number): void {
    this.firstToken = firstToken
    this.times.prefillEnded()
    this.notify()
  }

  /** Ends the transfer for both sides. Nothing happens where it is over. */
  fail(error: KvasirError): void {
    if (this.done.settled) return
    this.done.reject(error)
    this.failure.abort(error)
    this.notify()
  }

  /** Serves the receiver's Pull until everything is acknowledged. Throws what ended it. */
  async serve(
    open: PullOpen,
    incoming: AsyncIterable<PullRequest>,
    send: (message: PullResponse) => Promise<void>,
    signal: AbortSignal,
  ): Promise<void> {
    this.parts.opened()
    const receiver = open.receiverLease?.deviceId ?? this.receiver
    this.receiver = receiver
    const onGone = () => this.fail(lostReceiver(receiver, signal.reason))
    if (signal.aborted) onGone()
    else signal.addEventListener('abort', onGone, { once: true })
    try {
      const ready = this.want(open)
      const chunkBytesMax = this.chunkBytesMax(open, CHUNK_BYTES)
      const bulkBytesMax = this.chunkBytesMax(open, BULK_CHUNK_BYTES)
      await withSignal(this.admission.promise, this.failure.signal)
      this.failure.signal.throwIfAborted()
      const read = this.parts.pin()
      try {
        void this.readAcknowledgements(incoming)
        await this.sendAll(open, ready, { read, chunkBytesMax, bulkBytesMax, send })
      } finally {
        this.parts.unpin()
      }
      this.done.resolve()
    } catch (thrown) {
      this.fail(KvasirError.from(thrown))
      throw this.failure.signal.reason ?? thrown
    } finally {
      clearTimeout(this.acknowledgeTimer)
      signal.removeEventListener('abort', onGone)
    }
  }

  /** From here on it is known which blocks are wanted, and what of them. */
  private want({ firstBlock = 0, content = PullContent.KV, mergeLayers }: PullOpen): ReadyBlocks {
    this.mergeLayers = mergeLayersOf(mergeLayers, this.parts.mergeLayers, 'PullOpen')
    const { shape, tokens } = this.parts
    const blocks = blocksForTokens(tokens)
    if (firstBlock > blocks) {
      throw new InvalidInputError(
        `PullOpen.first_block is ${firstBlock}, but the sequence has ${blocks} blocks.`,
        { param: 'first_block' },
      )
    }
    const kv = content !== PullContent.BOUNDS
    const bounds = content === PullContent.BOUNDS || content === PullContent.KV_AND_BOUNDS
    const ready = new ReadyBlocks({
      layers: shape.layers,
      tokens,
      firstBlock,
      blockBytes: kv ? shape.blockLayerBytes : 0,
      boundsBytes: bounds ? shape.boundsBytes : 0,
      mergeLayers: this.mergeLayers,
    })
    this.blocksSent = kv ? blocks - firstBlock : 0
    this.ready = ready
    for (const [layer, computed] of this.computedTokens.entries()) ready.computed(layer, computed)
    return ready
  }

  private async sendAll(open: PullOpen, ready: ReadyBlocks, way: Way): Promise<void> {
    const { shape, tokens, cachedBlocks } = this.parts
    const { modelDigest, variant } = shape
    const afterPrefill = open.timing === PullTiming.AFTER_PREFILL
    const { mergeLayers } = this
    const of = { modelDigest, variant, tokens, blockTokens: BLOCK_TOKENS }
    const manifest = { ...of, blocks: cachedBlocks, mergeLayers, paced: this.parts.pacer.holds }
    await way.send({ message: { $case: 'manifest', value: manifest } })
    while (!ready.exhausted) {
      const chunkBytesMax = this.firstToken === undefined ? way.chunkBytesMax : way.bulkBytesMax
      const runs = this.nextRuns(ready, chunkBytesMax, Number(open.windowBytes), afterPrefill)
      if (runs === undefined) await this.change()
      else this.sendChunk(runs, way)
    }
    while (this.firstToken === undefined) await this.change()
    await this.onItsWay
    this.failure.signal.throwIfAborted()
    await way.send({
      message: {
        $case: 'end',
        value: { chunks: this.sentChunks, bytes: BigInt(this.sentBytes), firstToken: this.firstToken },
      },
    })
    while (this.unacknowledged.length > 0) await this.change()
  }

  /** What to send now, or undefined where to wait for more blocks, an acknowledgement or prefill's end. */
  private nextRuns(
    ready: ReadyBlocks,
    chunkBytesMax: number,
    windowBytes: number,
    afterPrefill: boolean,
  ): Run[] | undefined {
    if (afterPrefill && this.firstToken === undefined) return undefined
    if (this.firstToken !== undefined || ready.computedBytes >= chunkBytesMax) ready.release()
    const idle = this.unacknowledged.length === 0
    const bytes = Math.min(ready.pendingBytes, chunkBytesMax)
    const enough = bytes === chunkBytesMax || idle || this.firstToken !== undefined
    const fits = this.unacknowledgedBytes + bytes <= windowBytes
    return bytes > 0 && enough && fits ? ready.take(chunkBytesMax) : undefined
  }

  /** Issues the chunk's reads; it leaves when it is read and those before it have left. */
  private sendChunk(runs: readonly Run[], { read, send }: Way): void {
    const bytes = runs.reduce((sum, run) => sum + this.bytesOf(run), 0)
    this.sentChunks += 1n
    this.sentBytes += bytes
    const sequence = this.sentChunks
    this.unacknowledged.push({ sequence, bytes })
    this.unacknowledgedBytes += bytes
    const reading = Promise.all(runs.map(read))
    // A failure is looked at when its turn comes.
    reading.catch(() => {})
    const before = this.onItsWay
    this.onItsWay = before.then(() => this.transmit(sequence, runs, reading, send))
  }

  private async transmit(
    sequence: bigint,
    runs: readonly Run[],
    reading: Promise<(readonly Uint8Array[])[]>,
    send: (message: PullResponse) => Promise<void>,
  ): Promise<void> {
    try {
      const parts = (await reading).flat()
      const bytes = parts.reduce((sum, { byteLength }) => sum + byteLength, 0)
      this.failure.signal.throwIfAborted()
      const segments = runs.map(({ layer, first, count, bounds }) => ({
        layer,
        firstBlock: first,
        blockCount: count,
        ...(bounds ? { bounds } : {}),
      }))
      const chunk = scatteredChunk({ sequence, segments, checksum: checksumOfParts(parts) }, parts)
      this.times.sent(bytes)
      await this.parts.pacer.transmit(bytes * (this.parts.shape.linkFactor ?? 1), this.failure.signal)
      this.failure.signal.throwIfAborted()
      this.handedOver = sequence
      this.watchAcknowledgement()
      const sent = send({ message: { $case: 'chunk', value: chunk } })
      sent.then(
        () => dispose(parts),
        () => {},
      )
      await this.handOver(sent)
    } catch (thrown) {
      this.fail(KvasirError.from(thrown))
    }
  }

  /** Returns when the transport has room for another chunk. */
  private async handOver(leaving: Promise<void>): Promise<void> {
    leaving.catch((thrown: unknown) => this.fail(KvasirError.from(thrown)))
    this.leaving.push(leaving)
    if (this.leaving.length >= LEAVING_MAX) await this.leaving.shift()
  }

  private bytesOf({ bounds, count }: Run): number {
    const { shape } = this.parts
    return count * (bounds ? shape.boundsBytes : shape.blockLayerBytes)
  }

  private async readAcknowledgements(incoming: AsyncIterable<PullRequest>): Promise<void> {
    try {
      for await (const { message } of incoming) {
        if (message?.$case !== 'ack') {
          throw new InvalidInputError('After PullOpen a receiver sends acknowledgements only.', {
            param: 'message',
          })
        }
        this.acknowledged(message.value.sequence)
      }
      if (!this.done.settled && this.unacknowledged.length > 0) {
        throw lostReceiver(this.receiver, undefined)
      }
    } catch (thrown) {
      this.fail(thrown instanceof KvasirError ? thrown : lostReceiver(this.receiver, thrown))
    }
  }

  private acknowledged(sequence: bigint): void {
    if (sequence > this.sentChunks) {
      throw new InvalidInputError(`Chunk ${sequence} is acknowledged but was never sent.`, {
        param: 'sequence',
      })
    }
    for (;;) {
      const [oldest] = this.unacknowledged
      if (oldest === undefined || oldest.sequence > sequence) break
      this.unacknowledged.shift()
      this.unacknowledgedBytes -= oldest.bytes
      this.times.acknowledged()
    }
    clearTimeout(this.acknowledgeTimer)
    this.acknowledgeTimer = undefined
    this.watchAcknowledgement()
    this.notify()
  }

  /** Gives the oldest chunk that was handed over its time, unless that runs already. */
  private watchAcknowledgement(): void {
    const [oldest] = this.unacknowledged
    if (oldest === undefined || oldest.sequence > this.handedOver || this.done.settled) return
    this.acknowledgeTimer ??= setTimeout(() => {
      const ms = this.parts.acknowledgeMs
      this.fail(lostReceiver(this.receiver, new DeadlineError(`No acknowledgement within ${ms} ms.`)))
    }, this.parts.acknowledgeMs)
  }

  /** Data of a full chunk: whole blocks. */
  private chunkBytesMax({ windowBytes, content }: PullOpen, bytes: number): number {
    const { shape } = this.parts
    const unit = content === PullContent.BOUNDS ? shape.boundsBytes : shape.blockLayerBytes
    if (windowBytes < unit) {
      throw new InvalidInputError(
        `PullOpen.window_bytes is ${windowBytes}, less than one block of one layer (${unit} bytes); open a larger window.`,
        { param: 'window_bytes' },
      )
    }
    return Math.max(1, Math.floor(Math.min(bytes, Number(windowBytes)) / unit)) * unit
  }

  /** Resolves at the next change of anything this transfer waits for; throws once it has failed. */
  private async change(): Promise<void> {
    this.failure.signal.throwIfAborted()
    this.wake ??= deferred()
    await this.wake.promise
    this.failure.signal.throwIfAborted()
  }

  private notify(): void {
    this.wake?.resolve()
    this.wake = undefined
  }
}

/** How a transfer's chunks come about and leave. */
interface Way {
  readonly read: ReadRun
  readonly chunkBytesMax: number
  readonly bulkBytesMax: number
  readonly send: (message: PullResponse) => Promise<void>
}

function lostReceiver(receiver: string, cause: unknown): KvasirError {
  return new UnreachableError(
    `Device ${receiver} stopped receiving KV before the end; place the request anew.`,
    {
      ids: { deviceId: receiver },
      cause,
    },
  )
}
