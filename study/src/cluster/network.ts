/**
 * Messages between the processes of a virtual cluster, and the faults that befall them.
 *
 * On the bus (news about devices) a message may be lost, doubled or late. A gRPC call keeps its messages in order and
 * loses none while it lives: what cannot pass is held, and a call whose other side is not heard of for KEEPALIVE_MS
 * breaks, at both ends where they can find out.
 *
 * N1 Nothing is handed to a process that is dead; one that stalls is handed everything when it goes on, in order.
 */
import type { EventQueue } from './event-queue.js'
import type { Party } from './party.js'
import { type CallSides, VirtualCall } from './virtual-call.js'

export type Channel = 'bus' | 'call' | 'stream'

export interface Message {
  /** call: from the client of a call to its server. stream: back. */
  readonly channel: Channel
  readonly from: string
  readonly to: string
  /** Such as load, kv, reserve, tokens. */
  readonly what: string
}

/** Delay of each copy of a message; [] loses it, which breaks a call. */
export type Transit = (message: Message, nowMs: number) => readonly number[]

/** As runtime's gRPC keepalive: a peer that is cut off is noticed within two seconds. */
export const KEEPALIVE_MS = 2_000

export class Network {
  /** Messages handed over. */
  messages = 0
  readonly #queue: EventQueue
  readonly #messageMs: number
  readonly #transit: Transit | undefined
  /** `a>b` where nothing passes from a to b, with what waits. */
  readonly #blocked = new Map<string, (() => void)[]>()
  /** When the last message of each direction arrives, where delays differ. */
  readonly #lastMs = new Map<string, number>()

  constructor(queue: EventQueue, messageMs: number, transit: Transit | undefined) {
    this.#queue = queue
    this.#messageMs = messageMs
    this.#transit = transit
  }

  /** News: best effort. */
  publish(from: Party, to: Party, what: string, deliver: () => void): void {
    if (this.#blocked.size > 0 && this.#blocked.has(`${from.id}>${to.id}`)) return
    if (this.#transit === undefined) {
      this.#queue.after(this.#messageMs, () => this.#hand(to, deliver))
      return
    }
    const message: Message = { channel: 'bus', from: from.id, to: to.id, what }
    for (const delayMs of this.#transit(message, this.#queue.nowMs)) {
      this.#queue.after(delayMs, () => this.#hand(to, deliver))
    }
  }

  /** Opens a call; `arrive` runs at the server, twice where the message was doubled. */
  call(
    client: Party,
    server: Party,
    what: string,
    arrive: (call: VirtualCall) => void,
    sides: CallSides = {},
  ) {
    const call = new VirtualCall(client, server, what, sides)
    this.#send('call', call, client, what, () => {
      if (call.isOpenAtServer) arrive(call)
    })
    if (this.#isCut(client, server)) this.#breaksLater(call)
    return call
  }

  /** The server answers; `last` ends the call. */
  answer(call: VirtualCall, what: string, deliver: () => void, last = false): void {
    if (!call.isOpenAtServer) return
    if (last) call.endAtServer()
    this.#send('stream', call, call.server, what, () => {
      if (!call.isOpenAtClient) return
      if (last) call.endAtClient()
      deliver()
    })
  }

  /** The client leaves. */
  cancel(call: VirtualCall): void {
    if (!call.isOpenAtClient) return
    call.endAtClient()
    this.#send('call', call, call.client, 'cancel', () => call.leaveServer())
  }

  /** A process died: connections to it are reset. */
  died(party: Party): void {
    party.isDead = true
    for (const call of [...party.calls]) {
      const other = call.other(party)
      const hears = () => (call.client === other ? call.breakAtClient() : call.leaveServer())
      if (party === call.client) call.isOpenAtClient = false
      else call.isOpenAtServer = false
      // Where it is cut off the reset is lost, and silence tells.
      const delayMs = this.#isCut(other, party) ? KEEPALIVE_MS : this.#messageMs
      this.#queue.after(delayMs, () => this.#hand(other, hears))
    }
    party.calls.clear()
  }

  stalled(party: Party, untilMs: number): void {
    party.stalledUntilMs = Math.max(party.stalledUntilMs, untilMs)
    for (const call of party.calls) this.#breaksLater(call)
  }

  block(from: string, to: string, parties: Iterable<Party>): void {
    const key = `${from}>${to}`
    if (!this.#blocked.has(key)) this.#blocked.set(key, [])
    for (const party of parties) {
      for (const call of party.calls) if (this.#isCut(call.client, call.server)) this.#breaksLater(call)
    }
  }

  unblock(from: string, to: string): void {
    const held = this.#blocked.get(`${from}>${to}`)
    this.#blocked.delete(`${from}>${to}`)
    for (const send of held ?? []) send()
  }

  #send(channel: Channel, call: VirtualCall, from: Party, what: string, deliver: () => void): void {
    const to = call.other(from)
    const blocked = this.#blocked.size === 0 ? undefined : this.#blocked.get(`${from.id}>${to.id}`)
    if (blocked) {
      blocked.push(() => this.#send(channel, call, from, what, deliver))
      return
    }
    const hand = () => {
      if (to.isDead) this.#refused(call, to)
      else this.#hand(to, deliver)
    }
    if (this.#transit === undefined) {
      this.#queue.after(this.#messageMs, hand)
      return
    }
    const message: Message = { channel, from: from.id, to: to.id, what }
    const copies = this.#transit(message, this.#queue.nowMs)
    if (copies.length === 0) {
      this.#queue.after(this.#messageMs, () => this.#breaks(call))
      return
    }
    const key = `${from.id}>${to.id}`
    for (const delayMs of copies) {
      const atMs = Math.max(this.#queue.nowMs + delayMs, this.#lastMs.get(key) ?? 0)
      this.#lastMs.set(key, atMs)
      this.#queue.at(atMs, hand)
    }
  }

  /** Nobody listens where the message came to. */
  #refused(call: VirtualCall, dead: Party): void {
    const other = call.other(dead)
    this.#queue.after(this.#messageMs, () => {
      this.#hand(other, () => (call.client === other ? call.breakAtClient() : call.leaveServer()))
    })
  }

  #hand(to: Party, deliver: () => void): void {
    if (to.isDead) return
    if (to.stalledUntilMs > this.#queue.nowMs) {
      this.#queue.at(to.stalledUntilMs, () => this.#hand(to, deliver))
      return
    }
    this.messages += 1
    deliver()
  }

  #breaksLater(call: VirtualCall): void {
    this.#queue.after(KEEPALIVE_MS, () => {
      const { nowMs } = this.#queue
      const isSilent = [call.client, call.server].some(({ stalledUntilMs }) => stalledUntilMs > nowMs)
      if (isSilent || this.#isCut(call.client, call.server)) this.#breaks(call)
    })
  }

  /** Each side finds out by itself. */
  #breaks(call: VirtualCall): void {
    this.#hand(call.client, () => call.breakAtClient())
    this.#hand(call.server, () => call.leaveServer())
  }

  #isCut(a: Party, b: Party): boolean {
    if (this.#blocked.size === 0) return false
    return this.#blocked.has(`${a.id}>${b.id}`) || this.#blocked.has(`${b.id}>${a.id}`)
  }
}
