/**
 * One gRPC call in virtual time: a client, a server, messages both ways in order, and the ways in which it breaks.
 *
 * V1 After its end, its breaking or its cancellation nothing of it is handed to the side that knows.
 * V2 `broken` reaches the client once, `gone` the server once; neither after a regular end.
 */
import type { Party } from './party.js'

export interface CallSides {
  /** To the client: the server cannot be reached any more. */
  broken?(): void
  /** To the server: the client has left, or cannot be reached any more. */
  gone?(): void
}

export class VirtualCall {
  isOpenAtClient = true
  isOpenAtServer = true

  constructor(
    readonly client: Party,
    readonly server: Party,
    readonly what: string,
    readonly sides: CallSides,
  ) {
    client.calls.add(this)
    server.calls.add(this)
  }

  other(party: Party): Party {
    return party === this.client ? this.server : this.client
  }

  /** The client learns that nothing more will come. */
  breakAtClient(): void {
    if (!this.isOpenAtClient) return
    this.isOpenAtClient = false
    this.#leave()
    this.sides.broken?.()
  }

  leaveServer(): void {
    if (!this.isOpenAtServer) return
    this.isOpenAtServer = false
    this.#leave()
    this.sides.gone?.()
  }

  /** A regular end as its side sees it. */
  endAtClient(): void {
    this.isOpenAtClient = false
    this.#leave()
  }

  endAtServer(): void {
    this.isOpenAtServer = false
    this.#leave()
  }

  #leave(): void {
    if (this.isOpenAtClient || this.isOpenAtServer) return
    this.client.calls.delete(this)
    this.server.calls.delete(this)
  }
}
