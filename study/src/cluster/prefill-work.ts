/**
 * One Prefill call on a virtual agent: the prompt here, its KV on the way to another device.
 *
 * P1 The call says admitted, finished, kv-sent, in this order, each at most once; or failed.
 * P2 However the call ends, the sequence and its transfer end with it.
 */
import type { EndReason } from '@kvasir/agent/core/events'
import type { Fault } from '@kvasir/coordinator/core/protocol'
import { fetchCached } from './cached-fetch.js'
import { type EpochOrder, type PrefillFigures, prefillFigures, transferKey } from './epoch-client.js'
import { OutgoingKv } from './outgoing-kv.js'
import type { SequenceWork, VirtualAgent } from './virtual-agent.js'
import type { VirtualCall } from './virtual-call.js'
import { faultOfEnd, faultOfRefusal } from './work-faults.js'

/** Where cached blocks come from. */
export interface FetchOrder {
  readonly tokens: number
  /** '': they are thought to be here. */
  readonly deviceId: string
}

export class PrefillWork implements SequenceWork {
  readonly samplesLeft: number
  readonly #agent: VirtualAgent
  readonly #call: VirtualCall
  readonly #order: EpochOrder
  readonly #fetch: FetchOrder | undefined
  readonly #sequence: number
  readonly #transfer: OutgoingKv
  #isOver = false
  #failure: { readonly fault: Fault; readonly deviceId: string } | undefined
  #startedMs: number | undefined
  #shareMs = 0
  #localTokens = 0
  #fetched = { tokens: 0, bytes: 0, ms: 0 }
  #endFetch = () => {}
  #isStopped = false

  constructor(agent: VirtualAgent, call: VirtualCall, order: EpochOrder, fetch: FetchOrder | undefined) {
    this.#agent = agent
    this.#call = call
    this.#order = order
    this.#fetch = fetch
    this.#sequence = agent.newSequence()
    this.samplesLeft = order.stopIndex - order.firstIndex + 1
    this.#transfer = new OutgoingKv(agent, order.promptTokens, {
      sent: (times, blocks) => {
        agent.world.network.answer(call, 'kv-sent', () => order.client.kvSent(times), true)
        agent.apply({ type: 'sent', sequence: this.#sequence, blocks })
      },
      failed: (receiverId) => {
        this.#failure = { fault: 'unreachable', deviceId: receiverId === '' ? agent.id : receiverId }
        agent.apply({ type: 'end', sequence: this.#sequence, cause: 'failed' })
      },
    })
  }

  begin(): void {
    const { requestId, epoch, promptTokens, names } = this.#order
    this.#agent.transfers.set(transferKey(this.#order), this.#transfer)
    const refusal = this.#agent.start(this.#sequence, this, {
      type: 'prefill',
      sequence: this.#sequence,
      requestId,
      epoch,
      promptTokens,
      hashes: names,
      fetchTokens: this.#fetch?.tokens ?? 0,
    })
    if (typeof refusal !== 'string') return
    this.#leave()
    this.#transfer.drop()
    this.#fail(faultOfRefusal(refusal), this.#agent.id)
  }

  /** The coordinator has left. */
  gone(): void {
    if (!this.#isOver) this.#agent.apply({ type: 'end', sequence: this.#sequence, cause: 'cancelled' })
  }

  admitted(counter: bigint, cachedTokens: number): void {
    const { client, names } = this.#order
    const { network } = this.#agent.world
    this.#localTokens = cachedTokens
    network.answer(this.#call, 'admitted', () => client.prefillAdmitted())
    this.#transfer.present(cachedTokens)
    this.#transfer.admitted(counter)
    const fetch = this.#fetch
    if (fetch === undefined || fetch.tokens <= cachedTokens) return
    const source = fetch.deviceId === '' ? undefined : this.#agent.world.device(fetch.deviceId)
    const wish = { names, localTokens: cachedTokens, tokens: fetch.tokens }
    this.#endFetch = fetchCached(
      this.#agent,
      source,
      wish,
      () => this.#isOver || this.#agent.isDead,
      (tokens, bytes, ms) => {
        this.#fetched = { tokens, bytes, ms }
        this.#transfer.present(cachedTokens + tokens)
        this.#agent.apply({ type: 'fetched', sequence: this.#sequence, tokens: cachedTokens + tokens })
      },
    )
  }

  chunkStarts(start: number, count: number, startMs: number, ms: number): void {
    this.#startedMs ??= startMs
    this.#transfer.chunkStarts(start, count, startMs, ms)
  }

  chunkEnds(computedTokens: number, isCancelled: boolean, shareMs: number): void {
    this.#shareMs += shareMs
    this.#transfer.chunkEnds(computedTokens, isCancelled)
  }

  sampled(): void {
    const { client } = this.#order
    const figures = this.#figures()
    this.#isStopped = this.samplesLeft <= 1
    const stopped = this.#isStopped
    this.#agent.world.network.answer(this.#call, 'finished', () => client.prefillFinished(stopped, figures))
    this.#transfer.prefillEnded()
  }

  ended(reason: EndReason): void {
    this.#leave()
    if (reason === 'sent') return
    this.#transfer.drop()
    if (reason === 'cancelled' && !this.#call.isOpenAtServer) return
    const failure = this.#failure ?? { fault: faultOfEnd(reason), deviceId: this.#agent.id }
    this.#fail(failure.fault, failure.deviceId)
  }

  #figures(): PrefillFigures {
    const { nowMs } = this.#agent.world.queue
    const reuse = { localTokens: this.#localTokens, fetched: this.#fetched }
    const computeMs = nowMs - (this.#startedMs ?? nowMs)
    const times = { computeMs, shareMs: this.#shareMs }
    return prefillFigures(this.#agent.id, this.#order.promptTokens, reuse, times)
  }

  #leave(): void {
    this.#isOver = true
    this.#endFetch()
    this.#agent.transfers.delete(transferKey(this.#order))
  }

  #fail(fault: Fault, deviceId: string): void {
    const { client } = this.#order
    this.#agent.world.network.answer(
      this.#call,
      'failed',
      () => client.failed('prefill', fault, deviceId),
      true,
    )
  }
}
