/**
 * One Push call: full blocks that come from a sender that cannot be pulled from, into leased memory, and are kept
 * as cached blocks.
 *
 * Invariants:
 * P1 Nothing is kept of a push that did not end well: then its lease ends and its memory is free (I1, I7).
 * P2 Blocks that are here already are not written to, whether they are sent or left out.
 * P3 A sender that is silent for too long is given up, and one that is faster than the driver waits (I2).
 */

import { Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { PushRequest, PushResponse } from '@kvasir/proto/kvasir/kv/v1/kv'
import { withDeadline, withSignal } from '@kvasir/runtime/deferred'
import { CorruptDataError, InvalidInputError, KvasirError } from '@kvasir/runtime/errors'
import { recordError, startSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import { ChunkWriter, WriteFailed, type WriteRun } from './chunk-writer.js'
import { BLOCK_TOKENS } from './core/block-allocator.js'
import type { EndReason } from './core/events.js'
import { ableDriver, type Device } from './device.js'
import { RefusedByCore } from './device-runner.js'
import { runWriter } from './kv-shape.js'
import { type CheckedPush, readPushOpen } from './push-open.js'
import { NO_TOKENS, type SequenceOwner } from './sequence-owner.js'

/** Chunks that are written while the next one comes. */
const WRITING_MAX = 4

export async function receivePush(
  device: Device,
  incoming: AsyncIterable<PushRequest>,
  gone: AbortSignal,
): Promise<PushResponse> {
  ableDriver(device, Capability.ATTEND)
  const messages = incoming[Symbol.asyncIterator]()
  const push = await readPushOpen(messages, device)
  return new PushJob(device, push).run(messages, gone)
}

class PushJob implements SequenceOwner {
  private readonly id: number
  /** Aborts when the sequence ends. */
  private readonly over = new AbortController()

  constructor(
    private readonly device: Device,
    private readonly push: CheckedPush,
  ) {
    this.id = push.served.runner.newSequenceId()
  }

  async run(messages: AsyncIterator<PushRequest>, gone: AbortSignal): Promise<PushResponse> {
    const { runner } = this.push.served
    const { hashes } = this.push
    const span = startSpan(SPAN.kvReceive, {
      [ATTRIBUTE.deviceId]: this.device.deviceId,
      [ATTRIBUTE.tokens]: hashes.length * BLOCK_TOKENS,
    })
    const onGone = () => runner.cancel(this.id)
    try {
      const cached = this.attach()
      gone.addEventListener('abort', onGone, { once: true })
      if (gone.aborted) onGone()
      const { bytes, chunks } = await this.write(messages, cached)
      span.setAttributes({ [ATTRIBUTE.kvBytes]: bytes, [ATTRIBUTE.kvChunks]: chunks })
      runner.apply({ type: 'held', sequence: this.id, tokens: hashes.length * BLOCK_TOKENS })
      return { blocks: hashes.length - cached, bytes: BigInt(bytes) }
    } catch (thrown) {
      const error = this.errorOf(thrown)
      recordError(span, error)
      throw error
    } finally {
      gone.removeEventListener('abort', onGone)
      runner.cancel(this.id)
      span.end()
    }
  }

  ended(reason: EndReason, error: KvasirError | undefined): void {
    this.over.abort(error ?? this.push.served.ending(reason))
  }

  /** Throws RefusedByCore. Returns the leading blocks that are here already. */
  private attach(): number {
    const { lease, hashes, served } = this.push
    const { id } = this
    const answer = served.runner.begin(
      { id, tokens: [], owner: this, ...NO_TOKENS },
      { type: 'push', sequence: id, lease, hashes },
    )
    if (answer?.type !== 'attached') throw new Error('The core did not answer Push')
    return answer.cachedTokens / BLOCK_TOKENS
  }

  /** Takes everything in; no write is under way when it settles. */
  private async write(messages: AsyncIterator<PushRequest>, cached: number): Promise<ChunkWriter> {
    const { lease, served, hashes } = this.push
    const { runner, driver, model } = served
    const { counter } = lease
    runner.apply({ type: 'pin', counter })
    const writer = new ChunkWriter({
      layers: model.layers,
      write: missingOnly(runWriter(driver, runner.blocks(counter)), cached, model.blockLayerBytes),
      clock: this.device.clock,
      async written() {},
      corrupt: (what) => this.corrupt(what),
    })
    const blocks = hashes.length
    const { blockLayerBytes: unitBytes } = model
    writer.expect({ unitBytes, firstBlock: 0, blocks, optionalBlocks: cached }, undefined)
    try {
      await this.takeChunks(messages, writer)
      await writer.finished()
      this.over.signal.throwIfAborted()
      if (!writer.isWhole)
        throw this.corrupt(`The sender ended after ${writer.chunks} chunks, but blocks are missing`)
      return writer
    } finally {
      await writer.finished().catch(() => {})
      runner.apply({ type: 'unpin', counter })
    }
  }

  private async takeChunks(messages: AsyncIterator<PushRequest>, writer: ChunkWriter): Promise<void> {
    const { signal } = this.over
    const { pushSilenceMs } = this.device.limits
    const writing: Promise<void>[] = []
    for (;;) {
      const coming = withDeadline(messages.next(), pushSilenceMs, 'waiting for pushed KV')
      const next = await withSignal(coming, signal)
      if (next.done === true) return
      const { message } = next.value
      if (message?.$case !== 'chunk') {
        throw new InvalidInputError('After PushOpen a sender sends chunks only.', { param: 'message' })
      }
      writing.push(writer.write(message.value).over)
      if (writing.length >= WRITING_MAX) await writing.shift()
    }
  }

  private corrupt(what: string): CorruptDataError {
    const { deviceId } = this.device
    return new CorruptDataError(`${what}; device ${deviceId} keeps nothing of it. Push it again.`, {
      ids: { deviceId },
    })
  }

  private errorOf(thrown: unknown): KvasirError {
    if (thrown instanceof RefusedByCore) return this.push.served.refusal(thrown.reason)
    if (thrown instanceof WriteFailed) return KvasirError.from(thrown.cause)
    // What ended the sequence tells more than what came of its end.
    return KvasirError.from(this.over.signal.aborted ? this.over.signal.reason : thrown)
  }
}

/** Leaves out the leading `cached` blocks. */
function missingOnly(write: WriteRun, cached: number, blockBytes: number): WriteRun {
  return async (run, data, owned) => {
    const skipped = Math.min(run.count, Math.max(0, cached - run.first))
    if (skipped === run.count) return
    const rest = { ...run, first: run.first + skipped, count: run.count - skipped }
    await write(rest, data.subarray(skipped * blockBytes), owned)
  }
}
