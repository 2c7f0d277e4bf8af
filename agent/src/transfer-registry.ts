/**
 * Brings the two ends of a transfer together: the Prefill that offers it and the Pull
 * that asks for it, whichever comes first.
 *
 * Invariants: a transfer is claimed once; a Pull waits for its Prefill only until a
 * deadline; the number that waits is bounded (I2).
 */
import { type Deferred, deferred, withDeadline, withSignal } from '@kvasir/runtime/deferred'
import { InvalidInputError, NotFoundError, OverloadedError } from '@kvasir/runtime/errors'
import type { OutgoingTransfer } from './outgoing-transfer.js'

const WAITING_MAX = 1_024

export class TransferRegistry {
  private readonly offered = new Map<string, OutgoingTransfer>()
  private readonly awaited = new Map<string, Deferred<OutgoingTransfer>>()

  constructor(
    private readonly deviceId: string,
    /** How long a Pull waits for its Prefill to arrive. */
    private readonly waitMs: number,
  ) {}

  /** Throws InvalidInputError where the id is in use. */
  offer(transfer: OutgoingTransfer): void {
    if (this.offered.has(transfer.id)) {
      throw new InvalidInputError(
        `The transfer ${transfer.id} exists already; give each prefill its own transfer id.`,
        {
          param: 'transfer_id',
        },
      )
    }
    this.offered.set(transfer.id, transfer)
    this.awaited.get(transfer.id)?.resolve(transfer)
  }

  withdraw(transfer: OutgoingTransfer): void {
    if (this.offered.get(transfer.id) === transfer) this.offered.delete(transfer.id)
  }

  /** Waits for the transfer to be offered. Throws NotFoundError at the deadline. */
  async claim(id: string, signal: AbortSignal): Promise<OutgoingTransfer> {
    const transfer = this.offered.get(id) ?? (await this.wait(id, signal))
    if (transfer.claimed) {
      throw new InvalidInputError(`The transfer ${id} was pulled already; a transfer has one receiver.`, {
        param: 'transfer_id',
      })
    }
    // At once, since another Pull may ask before this one is served.
    transfer.claimed = true
    return transfer
  }

  private async wait(id: string, signal: AbortSignal): Promise<OutgoingTransfer> {
    if (this.awaited.has(id)) {
      throw new InvalidInputError(`The transfer ${id} is waited for already; a transfer has one receiver.`, {
        param: 'transfer_id',
      })
    }
    if (this.awaited.size >= WAITING_MAX) {
      throw new OverloadedError(`Too many transfers wait on device ${this.deviceId}; try again later.`, {
        ids: { deviceId: this.deviceId },
      })
    }
    const arrival: Deferred<OutgoingTransfer> = deferred()
    this.awaited.set(id, arrival)
    try {
      return await withDeadline(withSignal(arrival.promise, signal), this.waitMs, 'waiting for the prefill')
    } catch (cause) {
      signal.throwIfAborted()
      throw new NotFoundError(
        `No prefill offered the transfer ${id} on device ${this.deviceId} within ${this.waitMs} ms; place the request anew.`,
        { ids: { deviceId: this.deviceId, transferId: id }, cause },
      )
    } finally {
      this.awaited.delete(id)
    }
  }
}
