/** What a device takes in: leases, the sequences that use them, and KV that comes from elsewhere. */
import type { AgentAction, AgentEvent, DeviceModel, ModelLease, ModelSequence } from './device-model.js'

export class IntakeRules {
  readonly #device: DeviceModel

  constructor(device: DeviceModel) {
    this.#device = device
  }

  /** A prefill that was not refused is in, with memory at once or later. */
  accept({ sequence, requestId, epoch, promptTokens, fetchTokens }: AgentEvent<'prefill'>): void {
    this.#device.ledger.checkContext(requestId, promptTokens, this.#device.deviceId)
    const firstIndex = promptTokens - this.#device.ledger.request(requestId).promptTokens
    this.#device.sequences.set(sequence, {
      id: sequence,
      role: 'prefill',
      ...{ requestId, epoch, promptTokens, fetchTokens, firstIndex },
      lease: undefined,
      phase: 'waiting',
      computedTokens: 0,
      sampledTokens: 0,
    })
  }

  checkAccepted({ requestId, epoch }: AgentEvent<'prefill'>): void {
    this.#checkFence(requestId, epoch)
    let waiting = 0
    for (const { phase } of this.#device.sequences.values()) if (phase === 'waiting') waiting += 1
    if (waiting > this.#device.options.waitingMax)
      this.#device.fail('I2', `lets ${waiting} prompts wait`, requestId)
  }

  granted(
    { requestId, epoch, purpose }: AgentEvent<'reserve'>,
    action: AgentAction<'granted'>,
    nowMs: number,
  ): void {
    this.#checkFence(requestId, epoch)
    this.#issue({ counter: action.counter, role: purpose, requestId, epoch, sequence: undefined }, nowMs)
    let slots = 0
    for (const { role } of this.#device.leases.values()) if (role === 'decode') slots += 1
    if (slots > this.#device.options.decodeSlots)
      this.#device.fail('I2', `grants ${slots} decode slots`, requestId)
    this.#checkCached(action.counter, action.cachedTokens)
  }

  admitted({ sequence: id, counter, cachedTokens }: AgentAction<'admitted'>, nowMs: number): void {
    const sequence = this.#device.sequences.get(id)
    if (sequence === undefined) return
    const { requestId, epoch } = sequence
    sequence.lease = this.#issue({ counter, role: 'prefill', requestId, epoch, sequence: id }, nowMs)
    this.#checkCached(counter, cachedTokens)
    this.#begin(sequence, cachedTokens)
  }

  attached(event: AgentEvent<'decode'>, { sequence: id, cachedTokens }: AgentAction<'attached'>): void {
    const { requestId, epoch, lease: shown, promptTokens, firstIndex, fetchTokens, kv } = event
    const lease = this.#device.leases.get(shown.counter)
    const isOfLife =
      shown.deviceId === this.#device.deviceId && shown.incarnation === this.#device.options.incarnation
    if (!isOfLife || lease === undefined) {
      this.#device.fail(
        'I1',
        `lets ${requestId} use a lease that is not alive (${shown.counter} of life ${shown.incarnation})`,
        requestId,
      )
      return
    }
    if (lease.requestId !== requestId || lease.epoch !== epoch || lease.sequence !== undefined) {
      this.#device.fail('I1', `lets ${requestId} use a lease of ${lease.requestId}`, requestId)
    }
    this.#device.ledger.checkContext(requestId, promptTokens, this.#device.deviceId)
    if (promptTokens !== this.#device.ledger.request(requestId).promptTokens + firstIndex) {
      this.#device.fail(
        'I3',
        `decodes ${requestId} from token ${firstIndex} with a context of ${promptTokens}`,
        requestId,
      )
    }
    lease.sequence = id
    lease.blocks = this.#device.blocksOf(shown.counter)
    const sequence: ModelSequence = {
      ...{ id, role: 'decode', requestId, epoch, promptTokens, fetchTokens, firstIndex, lease },
      phase: 'receiving',
      computedTokens: cachedTokens,
      sampledTokens: 0,
    }
    this.#device.sequences.set(id, sequence)
    this.#device.held.checkPrefix(lease, cachedTokens)
    if (kv === 'computed') this.#begin(sequence, cachedTokens)
  }

  released({ lease }: AgentEvent<'release'>): void {
    if (lease.deviceId === this.#device.deviceId && lease.incarnation === this.#device.options.incarnation)
      return
    this.#device.fail(
      'I1',
      `releases lease ${lease.counter} of life ${lease.incarnation}, and this is life ${this.#device.incarnation}`,
    )
  }

  #issue(
    lease: Pick<ModelLease, 'counter' | 'role' | 'requestId' | 'epoch' | 'sequence'>,
    nowMs: number,
  ): ModelLease {
    const { counter, requestId } = lease
    if (this.#device.leases.has(counter)) this.#device.fail('I1', `issues lease ${counter} twice`, requestId)
    const issued: ModelLease = { ...lease, issuedMs: nowMs, pins: 0, blocks: this.#device.blocksOf(counter) }
    this.#device.lastCounter = counter
    this.#device.leases.set(counter, issued)
    this.#device.held.leases.set(counter, issued)
    return issued
  }

  #begin(sequence: ModelSequence, cachedTokens: number): void {
    sequence.computedTokens = cachedTokens
    sequence.phase = this.#fetchable(sequence) > cachedTokens ? 'fetching' : 'prefilling'
  }

  #fetchable({ fetchTokens, promptTokens }: ModelSequence): number {
    const size = this.#device.blockTokens
    return Math.min(Math.floor(fetchTokens / size), Math.floor((promptTokens - 1) / size)) * size
  }

  fetched({ sequence: id, tokens }: AgentEvent<'fetched'>): void {
    const sequence = this.#device.sequences.get(id)
    if (sequence?.phase !== 'fetching') return
    this.#fill(sequence, Math.min(tokens, this.#fetchable(sequence)))
    sequence.phase = 'prefilling'
  }

  received({ sequence: id, stopped }: AgentEvent<'received'>): void {
    const sequence = this.#device.sequences.get(id)
    if (sequence?.phase !== 'receiving') return
    const { requestId, epoch, promptTokens } = sequence
    if (!this.#device.ledger.isPrefilled(requestId, epoch)) {
      this.#device.fail('I6', `takes KV of ${requestId} for complete that was not computed yet`, requestId)
    }
    this.#fill(sequence, promptTokens)
    sequence.sampledTokens = 1
    if (!stopped) sequence.phase = 'decoding'
  }

  /** Tokens up to `tokens` are in its blocks now. */
  #fill(sequence: ModelSequence, tokens: number): void {
    const { lease, requestId, computedTokens } = sequence
    if (lease === undefined || tokens <= computedTokens) return
    const size = this.#device.blockTokens
    for (let page = Math.floor(computedTokens / size); page * size < tokens; page += 1) {
      const block = lease.blocks[page] ?? -1
      this.#device.held.checkAlone(block, lease)
      const filled = Math.min(size, tokens - page * size)
      this.#device.contents.write(block, this.#device.ledger.pageName(requestId, page), filled)
    }
    sequence.computedTokens = tokens
  }

  #checkCached(counter: bigint, cachedTokens: number): void {
    const lease = this.#device.leases.get(counter)
    if (lease) this.#device.held.checkPrefix(lease, cachedTokens)
  }

  /** A newer placement of a request ends what an older one holds; an older one is refused. */
  #checkFence(requestId: string, epoch: number): void {
    for (const other of [...this.#device.leases.values(), ...this.#device.sequences.values()]) {
      if (other.requestId !== requestId || other.epoch === epoch) continue
      const which = other.epoch > epoch ? 'an older' : 'a newer'
      this.#device.fail(
        'I1',
        `takes ${which} placement of ${requestId} beside epoch ${other.epoch}`,
        requestId,
      )
    }
  }
}
