/**
 * One Decode call: a sequence under a lease, from the prompt's KV to its last token.
 *
 * The KV comes from another device, which also sampled the first token and sent it to
 * the coordinator, so this stream begins with the token after it; or this device
 * prefills the prompt, and the stream begins with the first.
 *
 * Invariants:
 * D1 The stream says started, tokens in order each once, finished.
 * D2 However the call ends, the sequence ends with it, its lease too (I4).
 * D3 A consumer that does not read ends its own sequence, never slows another.
 */
import { Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { DecodeRequest, DecodeResponse } from '@kvasir/proto/kvasir/inference/v1/inference'
import { FinishReason, type KvSource } from '@kvasir/proto/kvasir/inference/v1/inference'
import { PullTiming } from '@kvasir/proto/kvasir/kv/v1/kv'
import { KvasirError, OverloadedError } from '@kvasir/runtime/errors'
import type { CallContext, Send } from '@kvasir/runtime/rpc-server'
import { recordError, startSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN, TOKEN_TIMES_MAX } from '@kvasir/runtime/telemetry-names'
import { type Attributes, type Context, context } from '@opentelemetry/api'
import type { EndReason } from './core/events.js'
import { DecodeOutbox } from './decode-outbox.js'
import { type Device, type LoadedDevice, leaseOf, loadedDevice } from './device.js'
import { RefusedByCore, type SequenceOwner } from './device-runner.js'
import { pullKv } from './incoming-transfer.js'
import { PrefillSpan } from './prefill-span.js'
import { endError, refusalError } from './refusals.js'
import { tokenMessage } from './token-message.js'
import { checkDecode } from './validation.js'

const FINISHED: Partial<Record<EndReason, FinishReason>> = {
  stop: FinishReason.STOP,
  length: FinishReason.LENGTH,
  preempted: FinishReason.PREEMPTED,
}

export async function runDecode(
  device: Device,
  request: DecodeRequest,
  call: CallContext,
  send: Send<DecodeResponse>,
): Promise<void> {
  const loaded = loadedDevice(device, Capability.DECODE)
  const { identity, lease, sampling, source } = checkDecode(request, loaded.model)
  const { runner } = device
  const id = runner.newSequenceId()
  const attributes = {
    [ATTRIBUTE.requestId]: identity.requestId,
    [ATTRIBUTE.epoch]: identity.epoch,
    [ATTRIBUTE.deviceId]: device.deviceId,
  }
  const outbox = new DecodeOutbox(device.limits.outboxTokensMax)
  const owner = new DecodeOwner(device, id, outbox, attributes, source === undefined, request.tokens.length)
  const { requestId, epoch, tenantSalt } = identity
  const onGone = () => runner.cancel(id)
  try {
    const answer = runner.begin(
      {
        id,
        tokens: [...request.tokens],
        firstIndex: request.firstIndex,
        sampling,
        stopTokens: new Set(request.sampling?.stopTokens),
        tenantSalt,
        owner,
      },
      {
        type: 'decode',
        sequence: id,
        lease,
        requestId,
        epoch,
        promptTokens: request.tokens.length,
        firstIndex: request.firstIndex,
        tokensMax: request.maxTokens,
        kv: source === undefined ? 'computed' : 'pulled',
      },
    )
    call.signal.addEventListener('abort', onGone, { once: true })
    if (call.signal.aborted) onGone()
    if (source !== undefined && answer?.type === 'attached') {
      const blocks = answer.blocks
      void receive({ device, loaded, id, source, request, counter: lease.counter, blocks, owner, attributes })
    }
    for await (const message of outbox) await send(message)
  } catch (thrown) {
    const error =
      thrown instanceof RefusedByCore
        ? refusalError(thrown.reason, device.deviceId)
        : KvasirError.from(thrown)
    owner.close(error)
    throw error
  } finally {
    call.signal.removeEventListener('abort', onGone)
    runner.cancel(id)
    owner.close()
  }
}

/** What the call's sequence has done so far, and the spans that tell of it. */
class DecodeOwner implements SequenceOwner {
  /** Aborts when the sequence ends. */
  readonly over = new AbortController()
  readonly parent: Context = context.active()
  private readonly prefillSpan: PrefillSpan | undefined
  private readonly span
  private readonly arrivedAtMs: number
  private startedAtMs: number | undefined
  private closed = false
  private steps = 0
  private stepUs = 0
  private batchMax = 0
  private readonly tokenUs: number[] = []

  constructor(
    private readonly device: Device,
    private readonly id: number,
    private readonly outbox: DecodeOutbox,
    attributes: Attributes,
    prefillsHere: boolean,
    promptTokens: number,
  ) {
    this.arrivedAtMs = device.clock.nowMs()
    this.span = startSpan(SPAN.decodeRun, attributes, this.parent)
    const prompt = { ...attributes, [ATTRIBUTE.tokens]: promptTokens }
    this.prefillSpan = prefillsHere ? new PrefillSpan(prompt, this.parent, device.clock) : undefined
  }

  started(): void {
    this.startedAtMs ??= this.device.clock.nowMs()
  }

  layerComputed(): void {
    this.prefillSpan?.layer()
  }

  promptComputed(): void {
    const startedAtMs = this.startedAtMs ?? this.arrivedAtMs
    this.prefillSpan?.end()
    this.say({
      queueUs: microseconds(startedAtMs - this.arrivedAtMs),
      prefillUs: microseconds(this.device.clock.nowMs() - startedAtMs),
    })
  }

  /** The prompt's KV has come from another device. */
  received(kv: { readonly bytes: number; readonly chunks: number; readonly elapsedUs: number }): void {
    this.say({ kvBytes: BigInt(kv.bytes), kvChunks: BigInt(kv.chunks), kvUs: BigInt(kv.elapsedUs) })
  }

  sampled(token: Parameters<typeof tokenMessage>[0], index: number, stopped: boolean): void {
    if (this.tokenUs.length < TOKEN_TIMES_MAX) {
      this.tokenUs.push(Math.round((this.device.clock.nowMs() - this.arrivedAtMs) * 1_000))
    }
    if (stopped || this.outbox.token(tokenMessage(token, index))) return
    const { deviceId } = this.device
    const message = `The consumer of a token stream of device ${deviceId} does not read; read faster or ask for less.`
    this.device.runner.fail(this.id, new OverloadedError(message, { ids: { deviceId } }))
  }

  stepped(role: 'prefill' | 'decode', elapsedUs: number, sequences: number): void {
    if (role !== 'decode') return
    this.steps += 1
    this.stepUs += elapsedUs
    this.batchMax = Math.max(this.batchMax, sequences)
  }

  ended(reason: EndReason, error: KvasirError | undefined): void {
    const finish = FINISHED[reason]
    if (finish !== undefined) {
      const { steps, stepUs, batchMax } = this
      const value = { reason: finish, steps, stepUs: BigInt(Math.round(stepUs)), batchMax, reads: [] }
      this.outbox.finish({ event: { $case: 'finished', value } })
      this.close()
    } else {
      const failure = error ?? endError(reason, this.device.deviceId)
      this.outbox.fail(failure)
      this.close(failure)
    }
    this.over.abort(endError(reason, this.device.deviceId))
  }

  /** Ends the spans. Nothing happens the second time. */
  close(error?: KvasirError): void {
    if (this.closed) return
    this.closed = true
    this.prefillSpan?.end(error)
    this.span.setAttributes({
      [ATTRIBUTE.tokens]: this.tokenUs.length,
      [ATTRIBUTE.decodeTokenUs]: this.tokenUs,
      [ATTRIBUTE.decodeBatchMax]: this.batchMax,
    })
    if (error !== undefined) recordError(this.span, error)
    this.span.end()
  }

  private say(facts: {
    kvBytes?: bigint
    kvChunks?: bigint
    kvUs?: bigint
    queueUs?: bigint
    prefillUs?: bigint
  }): void {
    const value = { kvBytes: 0n, kvChunks: 0n, kvUs: 0n, queueUs: 0n, prefillUs: 0n, ...facts }
    this.outbox.say({ event: { $case: 'started', value } })
  }
}

interface Receiving {
  readonly device: Device
  readonly loaded: LoadedDevice
  readonly id: number
  readonly source: KvSource
  readonly request: DecodeRequest
  readonly counter: bigint
  readonly blocks: readonly number[]
  readonly owner: DecodeOwner
  readonly attributes: Attributes
}

/** Brings the prompt's KV from the source, then lets the sequence decode; never rejects. */
async function receive({
  device,
  loaded,
  id,
  source,
  request,
  counter,
  blocks,
  owner,
  attributes,
}: Receiving) {
  const { runner, clock, limits } = device
  if (owner.over.signal.aborted) return
  const span = startSpan(
    SPAN.kvReceive,
    { ...attributes, [ATTRIBUTE.transferId]: source.transferId },
    owner.parent,
  )
  runner.apply({ type: 'pin', counter })
  let pinned = true
  const unpin = () => {
    if (pinned) runner.apply({ type: 'unpin', counter })
    pinned = false
  }
  try {
    const kv = await pullKv({
      client: device.kvClient(source.endpoint),
      sourceDeviceId: source.deviceId,
      transferId: source.transferId,
      timing: source.timing === PullTiming.AFTER_PREFILL ? source.timing : PullTiming.LAYERED,
      lease: leaseOf(device, counter),
      windowBytes: limits.windowBytes,
      model: loaded.model,
      tokens: request.tokens.length,
      blocks,
      driver: loaded.driver,
      clock,
      silenceMs: limits.silenceMs,
      signal: owner.over.signal,
    })
    span.setAttributes({
      [ATTRIBUTE.kvBytes]: kv.bytes,
      [ATTRIBUTE.kvChunks]: kv.chunks,
      [ATTRIBUTE.kvBytesPerSecond]: kv.elapsedUs === 0 ? 0 : Math.round(kv.bytes / (kv.elapsedUs / 1e6)),
    })
    span.end()
    unpin()
    if (owner.over.signal.aborted) return
    owner.received(kv)
    runner.received(id, kv.firstToken)
  } catch (thrown) {
    recordError(span, thrown)
    span.end()
    unpin()
    runner.fail(id, KvasirError.from(thrown))
  }
}

function microseconds(ms: number): bigint {
  return BigInt(Math.round(ms * 1_000))
}
