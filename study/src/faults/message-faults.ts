/**
 * What faults do to messages: which are lost, doubled or late, and which calls are made twice.
 *
 * M1 An advertisement is the value of a key: late at most, and never before an older one. All else on the bus may be
 *    lost, doubled and out of order.
 * M2 A call keeps its messages in order (the network sees to it); one that loses a message breaks.
 */
import type { Message } from '../cluster/network.js'
import { Dice } from './dice.js'
import { type ClusterFault, type FaultKind, isMessageFault, type MessageFault } from './fault-case.js'

interface Running {
  readonly fault: MessageFault
  readonly dice: Dice
}

export class MessageFaults {
  readonly #running: readonly Running[]
  readonly #messageMs: number
  readonly #befell: (kind: FaultKind) => void
  /** When the last advertisement of each device arrives. */
  readonly #advertisedMs = new Map<string, number>()

  /** `befell` hears of every message that fares badly. */
  constructor(faults: readonly ClusterFault[], messageMs: number, befell: (kind: FaultKind) => void) {
    this.#running = faults.filter(isMessageFault).map((fault) => ({ fault, dice: new Dice(fault.dice) }))
    this.#messageMs = messageMs
    this.#befell = befell
  }

  /** Delays of the copies of a message, as the network asks for them. */
  transit({ channel, from, to, what }: Message, nowMs: number): readonly number[] {
    let delays: readonly number[] = [this.#messageMs]
    const isNews = channel === 'bus'
    for (const running of this.#running) {
      const { kind, delayMs } = running.fault
      const isOfKind = isNews ? kind.endsWith('-news') : kind === 'broken-calls' || kind === 'late-calls'
      if (!isOfKind || !strikes(running, [from, to], nowMs)) continue
      if (what === 'advertised' && kind !== 'late-news') continue
      this.#befell(kind)
      const late = this.#messageMs + running.dice.between(1, delayMs)
      if (kind === 'lost-news' || kind === 'broken-calls') delays = []
      else if (kind === 'doubled-news') delays = delays.flatMap((ms) => [ms, ms + late])
      else delays = delays.map((ms) => ms + late)
    }
    return what === 'advertised' ? delays.map((ms) => this.#inOrder(from, nowMs + ms) - nowMs) : delays
  }

  /** Whether a call to the device that was just answered is made again. */
  isRepeated(device: string, nowMs: number): boolean {
    return this.#strikes('repeated-calls', device, nowMs)
  }

  /** Whether a call that was made during such a fault is made again after it. */
  isRepeatedLate(device: string, nowMs: number): boolean {
    const isOne = this.#running.some(({ fault }) => {
      return fault.kind === 'repeated-calls' && fault.device === device && fault.atMs <= nowMs
    })
    if (isOne) this.#befell('repeated-calls')
    return isOne
  }

  /** Whether what a call to the device said comes again after its epoch's end. */
  isStale(device: string, nowMs: number): boolean {
    return this.#strikes('stale-events', device, nowMs)
  }

  #strikes(kind: FaultKind, device: string, nowMs: number): boolean {
    for (const running of this.#running) {
      if (running.fault.kind !== kind || !strikes(running, [device], nowMs)) continue
      this.#befell(kind)
      return true
    }
    return false
  }

  #inOrder(device: string, atMs: number): number {
    const inOrderMs = Math.max(atMs, this.#advertisedMs.get(device) ?? 0)
    this.#advertisedMs.set(device, inOrderMs)
    return inOrderMs
  }
}

function strikes({ fault, dice }: Running, parties: readonly string[], nowMs: number): boolean {
  const { device, atMs, forMs, share } = fault
  return nowMs >= atMs && nowMs < atMs + forMs && parties.includes(device) && dice.chance(share)
}
