/**
 * The sender's side of one KV transfer: the blocks of one prefill, sent while it is
 * computed.
 *
 * What is ready goes out at once while nothing is under way; while something is, runs of
 * blocks gather until they fill a chunk. So a fast link gets each layer as it is
 * computed, a slow one gets full chunks, and what is left after prefill is little.
 *
 * Invariants:
 * T1 Never more than the receiver's window is unacknowledged.
 * T2 The lease's blocks are pinned from before the first read until after the last.
 * T3 It ends once: everything acknowledged, or one error for receiver and owner alike.
 * T4 A receiver that takes a chunk and does not acknowledge it in time is taken for lost (I2).
 */
import type { DeviceDriver, LoadedModelFacts } from '@kvasir/engine/device-driver'
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { type KvVariant, Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import {
  type KvChunk,
  type PullOpen,
  type PullRequest,
  type PullResponse,
  PullTiming,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import type { Clock } from '@kvasir/runtime/clock'
import { type Deferred, deferred, withSignal } from '@kvasir/runtime/deferred'
import { DeadlineError, InvalidInputError, KvasirError, UnreachableError } from '@kvasir/runtime/errors'
import { checksumOf } from './checksum.js'
import type { Pacer } from './pacer.js'
import { ReadyBlocks, type Run } from './ready-blocks.js'
import { TransferTimes } from './transfer-times.js'

/** Data in a full chunk. */
export const CHUNK_BYTES = 1 << 20

export interface OutgoingParts {
  readonly transferId: string
  readonly model: LoadedModelFacts
  readonly variant: KvVariant
  readonly tokens: number
  readonly driver: DeviceDriver
  readonly pacer: Pacer
  readonly clock: Clock
  /** From the hand-over of a chunk, or the acknowledgement before it, to its own. */
  readonly acknowledgeMs: number
  /** The receiver has opened it. */
  opened(): void
  /** Pins and unpins the blocks of the prefill's lease. */
  pin(): void
  unpin(): void
}

export class OutgoingTransfer {
  readonly times: TransferTimes
  /** Settles when everything was acknowledged, or with the error that ended the transfer. */
  readonly done: Deferred<void> = deferred()
  /** Its one receiver has come for it. */
  claimed = false
  private readonly ready: ReadyBlocks
  private readonly admission: Deferred<readonly number[]> = deferred()
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
  /** Settles when the last chunk handed over has left; never rejects. */
  private onItsWay: Promise<void> = Promise.resolve()

  constructor(private readonly parts: OutgoingParts) {
    this.ready = new ReadyBlocks(parts.model.layers, parts.tokens)
    this.times = new TransferTimes(parts.clock)
  }

  get id(): string {
    return this.parts.transferId
  }

  /** The prefill has its blocks. */
  admitted(blocks: readonly number[]): void {
    this.admission.resolve(blocks)
  }

  layerComputed(layer: number, tokens: number): void {
    this.ready.computed(layer, tokens)
    this.notify()
  }

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
      const blocksMax = this.blocksPerChunk(Number(open.windowBytes))
      const blocks = await withSignal(this.admission.promise, this.failure.signal)
      this.failure.signal.throwIfAborted()
      this.parts.pin()
      try {
        void this.readAcknowledgements(incoming)
        await this.sendAll(open, blocks, blocksMax, send)
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

  private async sendAll(
    open: PullOpen,
    blocks: readonly number[],
    blocksMax: number,
    send: (message: PullResponse) => Promise<void>,
  ): Promise<void> {
    const { model, variant, tokens } = this.parts
    const windowBytes = Number(open.windowBytes)
    const afterPrefill = open.timing === PullTiming.AFTER_PREFILL
    const manifest = { modelDigest: model.digest, variant, tokens, blockTokens: BLOCK_TOKENS }
    await send({ message: { $case: 'manifest', value: manifest } })
    while (!this.ready.exhausted) {
      const runs = this.nextRuns(blocksMax, windowBytes, afterPrefill)
      if (runs === undefined) await this.change()
      else await this.sendChunk(runs, blocks, send)
    }
    while (this.firstToken === undefined) await this.change()
    await this.onItsWay
    this.failure.signal.throwIfAborted()
    await send({
      message: {
        $case: 'end',
        value: { chunks: this.sentChunks, bytes: BigInt(this.sentBytes), firstToken: this.firstToken },
      },
    })
    while (this.unacknowledged.length > 0) await this.change()
  }

  /** What to send now, or undefined where to wait for more blocks, an acknowledgement or prefill's end. */
  private nextRuns(blocksMax: number, windowBytes: number, afterPrefill: boolean): Run[] | undefined {
    if (afterPrefill && this.firstToken === undefined) return undefined
    const idle = this.unacknowledged.length === 0
    const count = Math.min(this.ready.pendingBlocks, blocksMax)
    const enough = count === blocksMax || idle || this.firstToken !== undefined
    const fits = this.unacknowledgedBytes + count * this.parts.model.blockLayerBytes <= windowBytes
    return count > 0 && enough && fits ? this.ready.take(count) : undefined
  }

  /** Reads a chunk while the one before it is on its way, then hands it over. Returns when it may be followed. */
  private async sendChunk(
    runs: readonly Run[],
    blocks: readonly number[],
    send: (message: PullResponse) => Promise<void>,
  ): Promise<void> {
    const count = runs.reduce((sum, run) => sum + run.count, 0)
    const bytes = count * this.parts.model.blockLayerBytes
    this.sentChunks += 1n
    this.sentBytes += bytes
    const sequence = this.sentChunks
    this.unacknowledged.push({ sequence, bytes })
    this.unacknowledgedBytes += bytes
    const data = await this.read(runs, blocks)
    const segments = runs.map(({ layer, first, count }) => ({ layer, firstBlock: first, blockCount: count }))
    const chunk = { sequence, segments, data: asBuffer(data), checksum: checksumOf(data) }
    await this.onItsWay
    this.failure.signal.throwIfAborted()
    this.onItsWay = this.transmit(chunk, send)
  }

  private async transmit(chunk: KvChunk, send: (message: PullResponse) => Promise<void>): Promise<void> {
    try {
      this.times.sent(chunk.data.byteLength)
      await this.parts.pacer.transmit(chunk.data.byteLength, this.failure.signal)
      this.failure.signal.throwIfAborted()
      this.handedOver = chunk.sequence
      this.watchAcknowledgement()
      await send({ message: { $case: 'chunk', value: chunk } })
    } catch (thrown) {
      this.fail(KvasirError.from(thrown))
    }
  }

  private async read(runs: readonly Run[], blocks: readonly number[]): Promise<Uint8Array> {
    const { driver } = this.parts
    const reads = await Promise.allSettled(
      runs.map(({ layer, first, count }) =>
        driver.readBlocks(layer, Uint32Array.from(blocks.slice(first, first + count))),
      ),
    )
    const parts = reads.map((read, index) => {
      if (read.status === 'rejected') throw read.reason
      const run = runs[index]
      const last = run !== undefined && run.first + run.count === blocks.length
      if (last) zeroTail(read.value, this.parts.model, this.parts.tokens)
      return read.value
    })
    const [only] = parts
    return parts.length === 1 && only !== undefined ? only : Buffer.concat(parts)
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

  private blocksPerChunk(windowBytes: number): number {
    const { blockLayerBytes } = this.parts.model
    if (windowBytes < blockLayerBytes) {
      throw new InvalidInputError(
        `PullOpen.window_bytes is ${windowBytes}, less than one block of one layer (${blockLayerBytes} bytes); open a larger window.`,
        { param: 'window_bytes' },
      )
    }
    return Math.max(1, Math.floor(Math.min(CHUNK_BYTES, windowBytes) / blockLayerBytes))
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

/** Clears what an earlier owner left behind the last token of a sequence's last block. */
function zeroTail(
  run: Uint8Array,
  { kvHeads, headDim, blockLayerBytes }: LoadedModelFacts,
  tokens: number,
): void {
  const used = tokens % BLOCK_TOKENS
  if (used === 0) return
  const block = run.subarray(run.byteLength - blockLayerBytes)
  // [K|V][kv head][token][head dim], f32
  const tokenBytes = headDim * Float32Array.BYTES_PER_ELEMENT
  for (let head = 0; head < 2 * kvHeads; head += 1) {
    const start = head * BLOCK_TOKENS * tokenBytes
    block.fill(0, start + used * tokenBytes, start + BLOCK_TOKENS * tokenBytes)
  }
}

/** What the receiver is told a block is. */
export function exactVariant(layers: number): KvVariant {
  return { numerics: Profile.EXACT, dtype: 'PRECISION_F32', layers: { first: 0, count: layers } }
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

/** The generated encoder takes Buffers; the bytes are not copied. */
function asBuffer(data: Uint8Array): Buffer {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength)
}
