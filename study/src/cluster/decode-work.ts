/**
 * One Decode call on a virtual agent: a sequence under a lease, from the prompt's KV to its last token.
 *
 * D1 The call says started, tokens in order each once, finished; or failed.
 * D2 However the call ends, the sequence ends with it, its lease too.
 */
import type { EndReason } from '@kvasir/agent/core/events'
import type { LeaseReference } from '@kvasir/agent/core/lease-table'
import { SHARED_BOUNDS } from '@kvasir/agent/core/shared-bounds'
import type { DeviceRef } from '@kvasir/coordinator/core/facts'
import type { Fault } from '@kvasir/coordinator/core/protocol'
import { fetchCached } from './cached-fetch.js'
import { type EpochOrder, type PrefillFigures, prefillFigures, transferKey } from './epoch-client.js'
import type { FetchOrder } from './prefill-work.js'
import { type SequenceWork, VirtualAgent } from './virtual-agent.js'
import type { VirtualCall } from './virtual-call.js'
import { faultOfEnd, faultOfRefusal } from './work-faults.js'

/** As the real agent's, between two tries at a source that has not heard of the prompt. */
const RETRY_MS = 5
/**
 * Tokens of a run of steps are handed out together, and with those of the next one where something cut it short: what is heard late is
 * when a token came, which only the first and the last are asked for. Nothing is held where messages have fates of their own.
 */
const HELD_MS_MAX = 1_000

export class DecodeWork implements SequenceWork {
  readonly #agent: VirtualAgent
  readonly #call: VirtualCall
  readonly #order: EpochOrder
  readonly #lease: LeaseReference
  readonly #source: DeviceRef | undefined
  readonly #fetch: FetchOrder | undefined
  readonly #sequence: number
  /** Of the next token that is sampled here. */
  #nextIndex: number
  /** Of the next token that is handed out, and when some last were. */
  #saidIndex: number
  #saidMs: number | undefined
  #isOver = false
  #hasStarted = false
  #failure: { readonly fault: Fault; readonly deviceId: string } | undefined
  #localTokens = 0
  #fetched = { tokens: 0, bytes: 0, ms: 0 }
  #endFetch = () => {}
  #startedMs: number | undefined
  #shareMs = 0
  #steps = 0
  #stepsMs = 0
  #batchMax = 0
  #pull: VirtualCall | undefined

  /** `source`: the device that prefills; undefined: this one does. */
  constructor(
    agent: VirtualAgent,
    call: VirtualCall,
    order: EpochOrder,
    lease: LeaseReference,
    source: DeviceRef | undefined,
    fetch: FetchOrder | undefined,
  ) {
    this.#agent = agent
    this.#call = call
    this.#order = order
    this.#lease = lease
    this.#source = source
    this.#fetch = fetch
    this.#sequence = agent.newSequence()
    this.#nextIndex = source === undefined ? order.firstIndex : order.firstIndex + 1
    this.#saidIndex = this.#nextIndex
  }

  get samplesLeft(): number {
    return this.#order.stopIndex - this.#nextIndex + 1
  }

  begin(): void {
    const { requestId, epoch, promptTokens, firstIndex, maxTokens, names } = this.#order
    const answer = this.#agent.start(this.#sequence, this, {
      type: 'decode',
      sequence: this.#sequence,
      lease: this.#lease,
      requestId,
      epoch,
      promptTokens,
      firstIndex,
      tokensMax: maxTokens,
      kv: this.#source === undefined ? 'computed' : 'pulled',
      hashes: names,
      fetchTokens: this.#fetch?.tokens ?? 0,
      offload: undefined,
    })
    if (typeof answer === 'string') {
      this.#isOver = true
      this.#fail(faultOfRefusal(answer), this.#agent.id)
      return
    }
    this.#localTokens = answer?.type === 'attached' ? answer.cachedTokens : 0
    if (this.#source) this.#receive(this.#source)
    else this.#bringPrefix()
  }

  gone(): void {
    if (!this.#isOver) this.#agent.apply({ type: 'end', sequence: this.#sequence, cause: 'cancelled' })
  }

  chunkStarts(_start: number, _count: number, startMs: number): void {
    this.#startedMs ??= startMs
  }

  chunkEnds(_computedTokens: number, _isCancelled: boolean, shareMs: number): void {
    this.#shareMs += shareMs
  }

  sampled(count: number, batch: number, stepMs: number): void {
    const { client } = this.#order
    const { network } = this.#agent.world
    if (this.#hasStarted) {
      this.#steps += count
      this.#stepsMs += count * stepMs
      this.#batchMax = Math.max(this.#batchMax, batch)
    } else {
      this.#hasStarted = true
      const prefilled = this.#prefillFigures()
      network.answer(this.#call, 'started', () => client.decodeStarted({ prefilled }))
    }
    const isFirst = this.#nextIndex === this.#saidIndex && this.#saidMs === undefined
    this.#nextIndex += count
    const { queue, options, counters } = this.#agent.world
    const isHeld = options.coalesce !== false && options.transit === undefined && !isFirst
    if (!isHeld || queue.nowMs - (this.#saidMs ?? 0) >= HELD_MS_MAX) this.sayTokens()
    // Its message, and what the coordinator would make of it.
    else counters.eventsMerged += 2
  }

  /** Hands out the tokens that it holds. */
  sayTokens(): void {
    const { client, stopIndex } = this.#order
    const { network, queue } = this.#agent.world
    const first = this.#saidIndex
    // The stop token itself is not handed out.
    const handed = Math.min(this.#nextIndex, stopIndex) - first
    if (handed <= 0) return
    this.#saidIndex += handed
    this.#saidMs = queue.nowMs
    network.answer(this.#call, 'tokens', () => client.tokens(first, handed))
  }

  ended(reason: EndReason): void {
    this.#isOver = true
    this.#endFetch()
    this.sayTokens()
    const { network } = this.#agent.world
    if (this.#pull) network.cancel(this.#pull)
    if (reason === 'stop' || reason === 'length' || reason === 'preempted') {
      const figures = { steps: this.#steps, stepsMs: this.#stepsMs, batchMax: this.#batchMax }
      const { client } = this.#order
      network.answer(this.#call, 'finished', () => client.decodeFinished(reason, figures), true)
      return
    }
    if (reason === 'cancelled' && !this.#call.isOpenAtServer) return
    const failure = this.#failure ?? { fault: faultOfEnd(reason), deviceId: this.#agent.id }
    this.#fail(failure.fault, failure.deviceId)
  }

  /** Opens the transfer at the device that prefills, once that knows of it. */
  #receive(source: DeviceRef): void {
    const { world } = this.#agent
    const sender = world.device(source.deviceId)
    const blames = (fault: Fault) => {
      this.#failure = { fault, deviceId: source.deviceId }
      if (!this.#isOver) this.#agent.apply({ type: 'end', sequence: this.#sequence, cause: 'failed' })
    }
    if (!(sender instanceof VirtualAgent) || sender.ref.incarnation !== source.incarnation) {
      world.queue.after(2 * world.plan.messageMs, () => blames('unreachable'))
      return
    }
    const { network, queue } = world
    this.#pull = network.call(
      this.#agent,
      sender,
      'pull',
      (call) => {
        const untilMs = queue.nowMs + SHARED_BOUNDS.announceMs
        const open = () => {
          if (sender.isDead || !call.isOpenAtServer) return
          const transfer = sender.transfers.get(transferKey(this.#order))
          if (transfer) {
            const heldTokens = this.#localTokens
            transfer.open({ agent: this.#agent, call, heldTokens, arrived: () => this.#arrived() })
          } else if (queue.nowMs < untilMs) queue.after(RETRY_MS, open)
          else network.answer(call, 'unknown', () => blames('broken'), true)
        }
        open()
      },
      {
        broken: () => blames('unreachable'),
        gone: () => sender.transfers.get(transferKey(this.#order))?.fail(),
      },
    )
  }

  #arrived(): void {
    this.#pull = undefined
    if (this.#isOver) return
    const { client, firstIndex, stopIndex } = this.#order
    this.#hasStarted = true
    const heldTokens = this.#localTokens
    this.#agent.world.network.answer(this.#call, 'started', () => client.decodeStarted({ heldTokens }))
    const stopped = firstIndex >= stopIndex
    this.#agent.apply({ type: 'received', sequence: this.#sequence, stopped })
  }

  #bringPrefix(): void {
    const fetch = this.#fetch
    if (fetch === undefined || fetch.tokens <= this.#localTokens) return
    const { names } = this.#order
    const source = fetch.deviceId === '' ? undefined : this.#agent.world.device(fetch.deviceId)
    const localTokens = this.#localTokens
    const wish = { names, localTokens, tokens: fetch.tokens }
    this.#endFetch = fetchCached(
      this.#agent,
      source,
      wish,
      () => this.#isOver || this.#agent.isDead,
      (tokens, bytes, ms) => {
        this.#fetched = { tokens, bytes, ms }
        this.#agent.apply({ type: 'fetched', sequence: this.#sequence, tokens: localTokens + tokens })
      },
    )
  }

  #prefillFigures(): PrefillFigures {
    const { nowMs } = this.#agent.world.queue
    const reuse = { localTokens: this.#localTokens, fetched: this.#fetched }
    const computeMs = nowMs - (this.#startedMs ?? nowMs)
    const times = { computeMs, shareMs: this.#shareMs }
    return prefillFigures(this.#agent.id, this.#order.promptTokens, reuse, times)
  }

  #fail(fault: Fault, deviceId: string): void {
    const { client } = this.#order
    this.#agent.world.network.answer(
      this.#call,
      'failed',
      () => client.failed('decode', fault, deviceId),
      true,
    )
  }
}
