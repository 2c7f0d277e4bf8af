/**
 * One Attend call: the first pages of a sequence that another device decodes, from their arrival to the
 * last query.
 *
 * Invariants:
 * A1 The stream says ready, then one answer to each query, in order.
 * A2 However the stream ends, the sequence ends with it, and its lease (I4); and the other way round.
 * A3 A caller that asks faster than it is answered is refused, and never slows another.
 */
import { Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import {
  AttendMode,
  type AttendQuery,
  type AttendReady,
  type AttendRequest,
  type AttendResponse,
} from '@kvasir/proto/kvasir/memory/v1/memory'
import { AsyncQueue, withDeadline, withSignal } from '@kvasir/runtime/deferred'
import { InvalidInputError, KvasirError, OverloadedError } from '@kvasir/runtime/errors'
import type { CallContext, Send } from '@kvasir/runtime/rpc-server'
import { recordError, startSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import type { Span } from '@opentelemetry/api'
import { type AnswerFigures, AttendAnswers } from './attend-answers.js'
import { type CheckedOpen, readAttendOpen } from './attend-open.js'
import { bringPages } from './attend-pages.js'
import type { EndReason, TierTraffic } from './core/events.js'
import { ableDriver, type Device, modelOfLease } from './device.js'
import { RefusedByCore } from './device-runner.js'
import { hashText } from './kv-index.js'
import { NO_TOKENS, type SequenceOwner } from './sequence-owner.js'
import type { ServedModel } from './served-model.js'

/** Queries that wait for an answer. A decoding device asks one layer at a time. */
const QUERIES_MAX = 16

export async function runAttend(
  device: Device,
  incoming: AsyncIterable<AttendRequest>,
  call: CallContext,
  send: Send<AttendResponse>,
  opened: (open: CheckedOpen) => void,
): Promise<void> {
  ableDriver(device, Capability.ATTEND)
  const messages = incoming[Symbol.asyncIterator]()
  const { open, served } = await readAttendOpen(messages, (lease) => modelOfLease(device, lease))
  opened(open)
  const job = new AttendJob(device, served, open)
  await job.run(messages, call.signal, send)
}

class AttendJob implements SequenceOwner {
  private readonly id: number
  private readonly mode: 'partial' | 'indices'
  private readonly span: Span
  private readonly answers: AttendAnswers
  private readonly queries = new AsyncQueue<AttendQuery>(QUERIES_MAX)
  /** Aborts when the sequence ends. */
  private readonly over = new AbortController()
  private reads: readonly TierTraffic[] = []
  private prepareUs = 0

  constructor(
    private readonly device: Device,
    private readonly served: ServedModel,
    private readonly open: CheckedOpen,
  ) {
    const { deviceId } = device
    const { runner } = served
    this.id = runner.newSequenceId()
    this.mode = open.mode === AttendMode.PARTIAL ? 'partial' : 'indices'
    this.span = startSpan(SPAN.attendRun, {
      [ATTRIBUTE.requestId]: open.requestId,
      [ATTRIBUTE.epoch]: open.epoch,
      [ATTRIBUTE.deviceId]: deviceId,
      [ATTRIBUTE.transferId]: open.transferId,
    })
    this.answers = new AttendAnswers({
      ...served,
      mode: this.mode,
      pages: open.pages,
      blocks: () => runner.blocks(open.lease.counter),
    })
  }

  async run(
    messages: AsyncIterator<AttendRequest>,
    gone: AbortSignal,
    send: Send<AttendResponse>,
  ): Promise<void> {
    const { runner } = this.served
    const onGone = () => runner.cancel(this.id)
    try {
      const cachedTokens = this.attach()
      gone.addEventListener('abort', onGone, { once: true })
      if (gone.aborted) onGone()
      void this.readQueries(messages)
      const ready = await this.bring(cachedTokens)
      await send({ message: { $case: 'ready', value: ready } })
      for await (const query of this.queries) {
        this.over.signal.throwIfAborted()
        await send({ message: { $case: 'answer', value: await this.answer(query) } })
        // After the answer, which the other device's step waits for.
        const use = this.answers.takeStep()
        if (use !== undefined) runner.apply({ type: 'reads', sequence: this.id, ...use })
      }
    } catch (thrown) {
      const error = this.errorOf(thrown)
      recordError(this.span, error)
      throw error
    } finally {
      gone.removeEventListener('abort', onGone)
      runner.cancel(this.id)
      this.endSpan()
    }
  }

  ended(reason: EndReason, error: KvasirError | undefined, reads: readonly TierTraffic[]): void {
    this.reads = reads
    const failure = error ?? this.served.ending(reason)
    this.over.abort(failure)
    this.queries.fail(failure)
  }

  /** Throws RefusedByCore. Returns the leading tokens that are here already. */
  private attach(): number {
    const { lease, requestId, epoch, pages, prefix } = this.open
    const hashes = prefix?.hashes.map(hashText) ?? []
    const answer = this.served.runner.begin(
      { id: this.id, tokens: [], owner: this, ...NO_TOKENS },
      {
        type: 'attend',
        sequence: this.id,
        lease,
        requestId,
        epoch,
        pages,
        // Pages without K and V are of no use to others.
        reuse: this.mode === 'partial' && prefix !== undefined,
        hashes,
      },
    )
    if (answer?.type !== 'attached') throw new Error('The core did not answer Attend')
    return answer.cachedTokens
  }

  private async bring(cachedTokens: number): Promise<AttendReady> {
    const { device, served, open, mode, id } = this
    const { signal } = this.over
    const ready = await bringPages({ device, served, open, mode, cachedTokens, signal })
    signal.throwIfAborted()
    served.runner.apply({ type: 'held', sequence: id, tokens: ready.tokens })
    this.prepareUs = ready.prepareUs
    const { bytes, cachedPages, prepareUs } = ready
    return { bytes: BigInt(bytes), cachedPages, prepareUs: BigInt(prepareUs) }
  }

  private answer(query: AttendQuery) {
    // What takes longer the caller has given up.
    const { attendMs } = this.device.limits
    const answer = withDeadline(this.answers.answer(query), attendMs, 'waiting for the attention kernel')
    return withSignal(answer, this.over.signal)
  }

  /** Takes queries in while earlier ones are answered; never rejects. */
  private async readQueries(messages: AsyncIterator<AttendRequest>): Promise<void> {
    const { deviceId } = this.device
    const ids = { deviceId, requestId: this.open.requestId }
    try {
      for (;;) {
        const next = await messages.next()
        if (next.done === true) break
        const { message } = next.value
        if (message?.$case !== 'query') {
          throw new InvalidInputError('After AttendOpen a caller sends queries only.', {
            ids,
            param: 'message',
          })
        }
        if (this.queries.closed) return
        if (this.queries.push(message.value)) continue
        throw new OverloadedError(
          `More than ${QUERIES_MAX} attention queries of one sequence wait on device ${deviceId}; ask the next layer when the last is answered.`,
          { ids },
        )
      }
      this.queries.end()
    } catch (thrown) {
      // At once, whatever is still being answered.
      this.served.runner.fail(this.id, KvasirError.from(thrown))
    }
  }

  private errorOf(thrown: unknown): KvasirError {
    if (thrown instanceof RefusedByCore) return this.served.refusal(thrown.reason)
    // What ended the sequence tells more than what came of its end.
    return KvasirError.from(this.over.signal.aborted ? this.over.signal.reason : thrown)
  }

  private endSpan(): void {
    const figures: AnswerFigures = this.answers.figures
    this.span.setAttributes({
      [ATTRIBUTE.attentionPages]: figures.pages,
      [ATTRIBUTE.attentionPagesRead]: figures.pagesRead,
      [ATTRIBUTE.stagePrepareUs]: this.prepareUs,
      [ATTRIBUTE.stageRelevancyUs]: Math.round(figures.relevancyUs),
      [ATTRIBUTE.stageRetrievalUs]: Math.round(figures.retrievalUs),
      [ATTRIBUTE.stageApplyUs]: Math.round(figures.applyUs),
      [ATTRIBUTE.tierNames]: this.reads.map(({ tier }) => tier),
      [ATTRIBUTE.tierReadBytes]: this.reads.map(({ readBytes }) => readBytes),
      [ATTRIBUTE.tierMovedBytes]: this.reads.map(({ movedBytes }) => movedBytes),
    })
    this.span.end()
  }
}
