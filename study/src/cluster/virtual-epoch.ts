/**
 * The calls of one epoch of one request: Reserve, then Prefill and Decode side by side. Tells the coordinator's core what
 * happens, in its terms.
 *
 * E1 After `stop` or `finish` nothing is told any more, and what was reserved is released, also where it is granted only
 *    later.
 */
import type { LeaseReference } from '@kvasir/agent/core/lease-table'
import { hashRange } from '@kvasir/coordinator/core/block-hashes'
import type { CompletionRecord } from '@kvasir/coordinator/core/completion-record'
import type { Decision } from '@kvasir/coordinator/core/decision'
import type { DeviceRef } from '@kvasir/coordinator/core/facts'
import type {
  CallName,
  CoordinatorAction,
  CoordinatorEvent,
  Fault,
  RequestEvent,
} from '@kvasir/coordinator/core/protocol'
import { wordsOfBlocks } from './block-names.js'
import { DecodeWork } from './decode-work.js'
import type { DecodeFigures, EpochClient, EpochOrder, PrefillFigures } from './epoch-client.js'
import { epochRecord } from './epoch-record.js'
import type { LiveRequest } from './live-request.js'
import type { KvTimes } from './outgoing-kv.js'
import type { Party } from './party.js'
import { type FetchOrder, PrefillWork } from './prefill-work.js'
import { VirtualAgent } from './virtual-agent.js'
import type { VirtualCall } from './virtual-call.js'
import { modelNames } from './virtual-facts.js'
import { faultOfRefusal } from './work-faults.js'
import type { World } from './world.js'

type Ordered<Type extends CoordinatorAction['type']> = Extract<CoordinatorAction, { type: Type }>

const RESERVE_MS = 2_000

export class VirtualEpoch implements EpochClient {
  readonly number: number
  readonly decision: Decision
  readonly #world: World
  readonly #coordinator: Party & { step(event: CoordinatorEvent): void }
  readonly #live: LiveRequest
  readonly #calls: VirtualCall[] = []
  #lease: LeaseReference | undefined
  #isOver = false
  #decode: DecodeFigures | undefined
  #prefill: PrefillFigures | undefined
  #kv: KvTimes | undefined
  #contextTokens = 0

  constructor(
    world: World,
    coordinator: Party & { step(event: CoordinatorEvent): void },
    live: LiveRequest,
    action: Ordered<'reserve'>,
  ) {
    this.#world = world
    this.#coordinator = coordinator
    this.#live = live
    this.number = action.epoch
    this.decision = action.decision
    this.#reserve(action.tokens)
  }

  run(action: Ordered<'run'>): void {
    const { request, names } = this.#live
    const { outputTokens, maxTokens = outputTokens } = request
    this.#contextTokens = request.promptTokens + action.firstIndex
    const order: EpochOrder = {
      requestId: request.requestId,
      epoch: this.number,
      promptTokens: this.#contextTokens,
      firstIndex: action.firstIndex,
      maxTokens,
      stopIndex: maxTokens > outputTokens ? outputTokens : Number.POSITIVE_INFINITY,
      names,
      client: this,
    }
    const lease = this.#lease
    if (lease === undefined) return
    const { prefill } = action
    if (prefill) {
      this.#open('prefill', prefill, (agent, call) => {
        const work = new PrefillWork(agent, call, order, this.#fetchOrder())
        this.#onGone.set(call, () => work.gone())
        work.begin()
      })
    }
    const fetch = prefill ? undefined : this.#fetchOrder()
    this.#open('decode', action.decode, (agent, call) => {
      const work = new DecodeWork(agent, call, order, lease, prefill ?? undefined, fetch)
      this.#onGone.set(call, () => work.gone())
      work.begin()
    })
  }

  stop(): void {
    if (this.#isOver) return
    this.#isOver = true
    for (const call of this.#calls) this.#world.network.cancel(call)
    this.#release()
  }

  /** The regular end. What the cost model may learn from. */
  finish(): CompletionRecord {
    if (!this.#isOver) {
      this.#isOver = true
      // Where decoding ended by itself the calls do too; else nothing of them is needed any more.
      if (this.#decode === undefined) for (const call of this.#calls) this.#world.network.cancel(call)
      if (this.#decode === undefined) this.#release()
    }
    return epochRecord(modelNames(this.#world.plan).digest, this.decision, {
      contextTokens: this.#contextTokens,
      prefill: this.#prefill,
      decode: this.#decode,
      kv: this.#kv,
    })
  }

  prefillAdmitted(): void {
    this.#tell({ type: 'prefill-admitted', ...this.#id })
  }

  prefillFinished(stopped: boolean, figures: PrefillFigures): void {
    this.#prefilled(this.decision.prefill, figures)
    this.#tell({ type: 'prefill-finished', ...this.#id, stopped })
  }

  kvSent(times: KvTimes): void {
    this.#kv = times
    this.#live.kv = times
    this.#tell({ type: 'kv-sent', ...this.#id })
  }

  decodeStarted(started: { readonly prefilled?: PrefillFigures; readonly heldTokens?: number }): void {
    if (started.prefilled) this.#prefilled(this.decision.decode, started.prefilled)
    if (started.heldTokens !== undefined) {
      this.#missed(this.decision.decode, started.heldTokens, this.decision.prefix.heldByDecodeTokens)
    }
    this.#tell({ type: 'decode-started', ...this.#id })
  }

  tokens(firstIndex: number, count: number): void {
    this.#tell({ type: 'tokens', ...this.#id, firstIndex, count })
  }

  decodeFinished(reason: 'stop' | 'length' | 'preempted', figures: DecodeFigures): void {
    this.#decode = figures
    // Its lease has ended with it.
    this.#lease = undefined
    this.#tell({ type: 'decode-finished', ...this.#id, reason })
  }

  failed(call: CallName, fault: Fault, deviceId: string): void {
    this.#tell({ type: 'call-failed', ...this.#id, call, fault, deviceId })
  }

  readonly #onGone = new Map<VirtualCall, () => void>()

  get #id(): { readonly requestId: string; readonly epoch: number } {
    return { requestId: this.#live.request.requestId, epoch: this.number }
  }

  #tell(event: RequestEvent): void {
    if (!this.#isOver) this.#coordinator.step(event)
  }

  #reserve(tokens: number): void {
    const { network, queue } = this.#world
    const { decode } = this.decision
    const { requestId } = this.#live.request
    let isAnswered = false
    const answered = (does: () => void) => {
      if (isAnswered) return
      isAnswered = true
      does()
    }
    const call = this.#open(
      'reserve',
      decode,
      (agent, asked) => {
        const { names } = this.#live
        const reserve = { requestId, epoch: this.number, tokens, hashes: names, purpose: 'decode' } as const
        const answer = agent.apply({ type: 'reserve', ...reserve })
        if (typeof answer === 'string') {
          const fault = faultOfRefusal(answer)
          network.answer(
            asked,
            'refused',
            () => answered(() => this.failed('reserve', fault, agent.id)),
            true,
          )
        } else if (answer?.type === 'granted') {
          const lease = agent.lease(answer.counter)
          network.answer(asked, 'granted', () => answered(() => this.#granted(lease)), true)
        }
      },
      () => answered(() => this.failed('reserve', 'unreachable', decode.deviceId)),
    )
    queue.after(RESERVE_MS, () => {
      answered(() => {
        if (call) network.cancel(call)
        this.failed('reserve', 'unreachable', decode.deviceId)
      })
    })
  }

  #granted(lease: LeaseReference): void {
    this.#lease = lease
    if (this.#isOver) this.#release()
    else this.#tell({ type: 'reserved', ...this.#id })
  }

  /** Calls the life of the device that was meant, or the one that is at its address now. */
  #open(
    what: CallName | 'release',
    device: DeviceRef,
    arrive: (agent: VirtualAgent, call: VirtualCall) => void,
    broken = () => {
      if (what !== 'release') this.failed(what, 'unreachable', device.deviceId)
    },
  ): VirtualCall | undefined {
    const { network, queue, plan, options } = this.#world
    const agent = this.#world.device(device.deviceId)
    const isReached = options.fixedAddresses === true || agent?.ref.incarnation === device.incarnation
    if (!(agent instanceof VirtualAgent) || !isReached) {
      queue.after(2 * plan.messageMs, broken)
      return undefined
    }
    const call: VirtualCall = network.call(this.#coordinator, agent, what, (asked) => arrive(agent, asked), {
      broken,
      gone: () => this.#onGone.get(call)?.(),
    })
    // A reservation that is granted must be known to be released.
    if (what === 'prefill' || what === 'decode') this.#calls.push(call)
    return call
  }

  /** Best effort: a device that does not hear of it ends the lease when its time is over. */
  #release(): void {
    const lease = this.#lease
    if (lease === undefined) return
    this.#lease = undefined
    const { network } = this.#world
    this.#open('release', this.decision.decode, (agent, call) => {
      agent.apply({ type: 'release', lease })
      network.answer(call, 'released', () => {}, true)
    })
  }

  #fetchOrder(): FetchOrder | undefined {
    const { fetch, localTokens } = this.decision.prefix
    if (fetch) return { tokens: fetch.tokens, deviceId: fetch.device.deviceId }
    return localTokens > 0 ? { tokens: localTokens, deviceId: '' } : undefined
  }

  #prefilled(device: DeviceRef, figures: PrefillFigures): void {
    this.#prefill = figures
    this.#live.prefill = figures
    const { prefix } = this.decision
    this.#missed(device, figures.localTokens, prefix.localTokens)
    if (prefix.fetch) this.#missed(prefix.fetch.device, figures.contextTokens, prefix.fetch.tokens)
  }

  /** Blocks that the directory knew on a device and that were not there, or did not come. */
  #missed(device: DeviceRef, haveTokens: number, expectedTokens: number): void {
    const { blockTokens } = this.#world.plan
    const [from, to] = [Math.floor(haveTokens / blockTokens), Math.ceil(expectedTokens / blockTokens)]
    if (to <= from || this.#isOver) return
    const hashes = hashRange(wordsOfBlocks(this.#live.request.blocks), from, to)
    if (hashes.length > 0) this.#coordinator.step({ type: 'kv-missed', device, hashes })
  }
}
