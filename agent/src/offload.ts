/**
 * Offloaded attention as the decoding device sees it: its prompt's full pages go to another device while
 * the prompt is computed here, or once it has come from elsewhere, and from the first decode step on that
 * device answers for them.
 *
 * Invariants:
 * O1 `ready` says that every page is there and acknowledged: only then may this device give its own up.
 * O2 `close` frees what the other device holds, whatever came before; what fails without it is told once,
 *    by `lost`, and names the other device.
 */
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import type { SequenceIdentity } from '@kvasir/proto/kvasir/inference/v1/inference'
import type { Lease } from '@kvasir/proto/kvasir/kv/v1/kv'
import type { AttendMode } from '@kvasir/proto/kvasir/memory/v1/memory'
import { withDeadline } from '@kvasir/runtime/deferred'
import { CancelledError, DeadlineError, KvasirError, UnreachableError } from '@kvasir/runtime/errors'
import { ATTRIBUTE } from '@kvasir/runtime/telemetry-names'
import type { Attributes, Context } from '@opentelemetry/api'
import type { Device } from './device.js'
import { hashBytes } from './kv-index.js'
import { runReader, shapeOf } from './kv-shape.js'
import { OutgoingTransfer } from './outgoing-transfer.js'
import { RemoteAttentionCall } from './remote-attention.js'
import { SendSpan } from './send-span.js'
import type { ServedModel } from './served-model.js'

/** What a request says of the device that attends for it, checked. */
export interface OffloadTarget {
  readonly deviceId: string
  readonly endpoint: string
  readonly lease: Lease
  readonly mode: AttendMode.PARTIAL | AttendMode.INDICES
}

export interface OffloadParts {
  readonly device: Device
  readonly served: ServedModel
  readonly identity: SequenceIdentity
  readonly target: OffloadTarget
  /** Full pages of the prompt. */
  readonly pages: number
  /** Of these; undefined where nothing may be reused. */
  readonly hashes: readonly string[] | undefined
  /** What names the sequence in traces, and the call's own span. */
  readonly attributes: Attributes
  readonly parent: Context
  /** This device's lease, which holds the pages; the first tokens of them already. */
  readonly counter: bigint
  readonly cachedTokens: number
}

export class Offload {
  /** For the sequence's rows in decode steps. */
  readonly remote: RemoteAttentionCall
  /** Resolves with what ended the stream or the transfer, unless `close` did. */
  readonly lost: Promise<KvasirError>
  private readonly transfer: OutgoingTransfer
  private closed = false

  /** Opens the stream and offers the pages. Throws where the placement is offloaded already. */
  constructor(private readonly parts: OffloadParts) {
    const { device, served, identity, target, pages, counter, parent } = parts
    const { limits, clock } = device
    const { runner } = served
    const { requestId, epoch } = identity
    const tokens = pages * BLOCK_TOKENS
    const transferId = `attend ${requestId} ${epoch}`
    const told = { ...parts.attributes, [ATTRIBUTE.transferId]: transferId, [ATTRIBUTE.tokens]: tokens }
    const span = new SendSpan(told, parent, clock)
    this.transfer = new OutgoingTransfer({
      transferId,
      shape: shapeOf(served),
      tokens,
      pacer: device.pacer,
      mergeLayers: device.mergeLayers,
      clock,
      acknowledgeMs: limits.acknowledgeMs,
      opened: () => span.opened(),
      pin() {
        runner.apply({ type: 'pin', counter })
        return runReader(served, runner.blocks(counter).slice(0, pages), tokens)
      },
      unpin: () => runner.apply({ type: 'unpin', counter }),
    })
    device.transfers.offer(this.transfer)
    this.transfer.done.promise.then(
      () => span.end(this.transfer),
      (error: unknown) => span.end(this.transfer, error),
    )
    this.transfer.admitted()
    this.transfer.present(parts.cachedTokens)
    this.remote = new RemoteAttentionCall({
      client: device.attendClient(target.endpoint),
      deviceId: target.deviceId,
      model: served.model,
      attendMs: limits.attendMs,
      open: {
        lease: target.lease,
        requestId,
        epoch,
        modelDigest: served.model.digest,
        mode: target.mode,
        pages,
        sourceEndpoint: device.kvEndpoint(),
        sourceDeviceId: device.deviceId,
        transferId: this.transfer.id,
        ...(parts.hashes === undefined ? {} : { prefix: { hashes: parts.hashes.map(hashBytes) } }),
      },
    })
    this.lost = this.loss()
  }

  /** A layer has computed the first `tokens` tokens of the prompt. */
  layerComputed(layer: number, tokens: number): void {
    this.transfer.layerComputed(layer, tokens)
  }

  /** All layers of the prompt have come from the device that prefilled. */
  received(): void {
    this.transfer.present(this.parts.pages * BLOCK_TOKENS)
  }

  /** The prompt is in place: resolves when the other device has its pages. Rejects with an error that names it. */
  async ready(): Promise<void> {
    const { device, target } = this.parts
    this.transfer.prefillEnded(0)
    const { acknowledgeMs } = device.limits
    const both = Promise.all([this.transfer.done.promise, this.remote.ready])
    try {
      await withDeadline(both, acknowledgeMs, 'waiting for the attending device')
    } catch (thrown) {
      const error = KvasirError.from(thrown)
      if (!(error instanceof DeadlineError)) throw error
      const { deviceId } = target
      throw new UnreachableError(
        `Device ${deviceId} did not take the pages of the sequence within ${acknowledgeMs} ms; place the request anew.`,
        { ids: { deviceId, requestId: this.parts.identity.requestId }, cause: error },
      )
    }
  }

  /** Nothing happens the second time. */
  close(): void {
    if (this.closed) return
    this.closed = true
    const { deviceId } = this.parts.target
    this.remote.close()
    this.transfer.fail(
      new CancelledError(`The attention on device ${deviceId} is over.`, { ids: { deviceId } }),
    )
    this.parts.device.transfers.withdraw(this.transfer)
  }

  /** Both ends of the other device are heard: it may refuse the stream and never come for the pages. */
  private async loss(): Promise<KvasirError> {
    const transferLost = new Promise<KvasirError>((resolve) => {
      this.transfer.done.promise.catch((thrown: unknown) => {
        if (!this.closed) resolve(KvasirError.from(thrown))
      })
    })
    return Promise.race([this.remote.lost, transferLost])
  }
}
