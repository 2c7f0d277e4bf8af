/**
 * Steps of a device: one at a time, of sequences with living leases, each row after all before it and in blocks that are its
 * sequence's alone.
 */
import type { StepPart } from '@kvasir/agent/core/events'
import type { AgentAction, AgentEvent, DeviceModel, ModelLease, ModelSequence } from './device-model.js'

export class StepRules {
  readonly #device: DeviceModel

  constructor(device: DeviceModel) {
    this.#device = device
  }

  begins({ parts }: AgentAction<'run-step'>): void {
    if (this.#device.running !== undefined) this.#device.fail('books', 'runs two steps at once')
    const running: { part: StepPart; lease: ModelLease }[] = []
    for (const part of parts) {
      const sequence = this.#device.sequences.get(part.sequence)
      const lease = sequence?.lease
      if (lease === undefined || !this.#device.leases.has(lease.counter)) {
        this.#device.fail(
          'I1',
          `computes rows of sequence ${part.sequence} without a lease`,
          sequence?.requestId,
        )
      } else running.push({ part, lease })
    }
    this.#device.running = running
  }

  check({ parts }: AgentAction<'run-step'>): void {
    const decodes = parts.filter(({ role }) => role === 'decode').length
    if (decodes > (this.#device.options.decodesAtOnce ?? Number.POSITIVE_INFINITY)) {
      this.#device.fail('I2', `decodes ${decodes} sequences in one step`)
    }
    for (const { part, lease } of this.#device.running ?? []) {
      const sequence = this.#device.sequences.get(part.sequence)
      if (sequence === undefined) continue
      const { requestId, role, phase, promptTokens, computedTokens, sampledTokens } = sequence
      if (part.count < 1) this.#device.fail('I3', `computes no row of ${requestId}`, requestId)
      const isDecode = part.role === 'decode'
      const expected = isDecode ? promptTokens + sampledTokens - 1 : computedTokens
      if (part.start !== expected || (isDecode ? 'decoding' : 'prefilling') !== phase) {
        this.#device.fail(
          'I3',
          `computes ${requestId} (${role}) from token ${part.start} while it is ${phase} at ${expected}`,
          requestId,
        )
      }
      this.#checkRows(part, lease)
    }
  }

  /** All before the rows is there, and nobody else has the blocks that they are written to. */
  #checkRows({ start, count, blocks }: StepPart, lease: ModelLease): void {
    const size = this.#device.blockTokens
    for (const [page, block] of blocks.entries()) {
      const first = page * size
      if (lease.blocks[page] !== block) {
        this.#device.fail(
          'I1',
          `computes ${lease.requestId} in block ${block}, which its lease has not`,
          lease.requestId,
        )
      }
      if (first < start) {
        this.#device.held.checkPage(lease.requestId, page, block, Math.min(size, start - first))
      }
      if (first + size <= start || first >= start + count) continue
      this.#device.held.checkAlone(block, lease)
      // From now on, since also a step that is cancelled may have written.
      this.#device.contents.write(
        block,
        this.#device.ledger.pageName(lease.requestId, page),
        Math.max(0, start - first),
      )
    }
  }

  finished({ cancelled, steps = 1 }: AgentEvent<'step-finished'>): void {
    const running = this.#device.running ?? []
    if (!cancelled) for (const { part, lease } of running) this.#ran(part, lease, steps)
    this.ends()
  }

  #ran({ sequence: id, role, start, count, wantLogits }: StepPart, lease: ModelLease, steps: number): void {
    const size = this.#device.blockTokens
    const end = start + count + steps - 1
    // Its blocks stay untouched until now, also where the lease has ended meanwhile.
    for (let page = Math.floor(start / size); page * size < end; page += 1) {
      const block = lease.blocks[page]
      if (block === undefined) break
      this.#device.contents.write(
        block,
        this.#device.ledger.pageName(lease.requestId, page),
        Math.min(size, end - page * size),
      )
    }
    const sequence = this.#device.sequences.get(id)
    if (sequence === undefined) return
    sequence.computedTokens = end
    if (!wantLogits) return
    const { requestId, epoch, firstIndex } = sequence
    sequence.sampledTokens += steps
    this.#device.ledger.sampled(requestId, firstIndex + sequence.sampledTokens)
    if (sequence.role === 'decode') sequence.phase = 'decoding'
    else {
      sequence.phase = 'computed'
      this.#device.ledger.prefilled(requestId, epoch)
    }
    if (role === 'prefill' && end !== sequence.promptTokens) {
      this.#device.fail(
        'I3',
        `samples a token of ${requestId} after ${end} of ${sequence.promptTokens} tokens`,
        requestId,
      )
    }
  }

  /** Several steps as one may have gone on into blocks that the lease got meanwhile. */
  fillLater({ cancelled, steps = 1 }: AgentEvent<'step-finished'>): void {
    if (cancelled || steps === 1) return
    const size = this.#device.blockTokens
    for (const sequence of this.#device.sequences.values()) {
      const { lease, computedTokens, requestId, phase } = sequence
      if (lease === undefined || phase !== 'decoding') continue
      const page = Math.floor((computedTokens - 1) / size)
      for (let at = Math.max(0, page - Math.ceil(steps / size)); at <= page; at += 1) {
        const block = lease.blocks[at]
        const name = this.#device.ledger.pageName(requestId, at)
        const filled = Math.min(size, computedTokens - at * size)
        const isNew = block !== undefined && !this.#device.contents.holds(block, name, 1)
        if (isNew && this.#isGenerated(sequence, at)) this.#device.contents.write(block, name, filled)
      }
    }
  }

  /** Whether no token of the prompt is on the page. */
  #isGenerated({ promptTokens }: ModelSequence, page: number): boolean {
    return page * this.#device.blockTokens >= promptTokens
  }

  ends(): void {
    const running = this.#device.running ?? []
    this.#device.running = undefined
    for (const { lease } of running) if (lease.pins <= 0) this.#device.held.ended.delete(lease.counter)
    this.#device.held.changed()
  }
}
