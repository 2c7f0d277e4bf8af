/**
 * What happens to sequences that were taken in: their KV arrives, steps end, their attention reads.
 *
 * Nothing here can be refused; an event about a sequence that has ended, or in a phase that it
 * has left, changes nothing.
 */
import { blocksForTokens, fullBlocks } from './block-allocator.js'
import type { DeviceState, Phase, Sequence } from './device-state.js'
import type { CoreEvent, PageUse, StepPart } from './events.js'
import { fetchable } from './intake.js'

type Event<Type extends CoreEvent['type']> = Extract<CoreEvent, { type: Type }>
/** A sequence with memory. */
type Leased = Sequence & { counter: bigint }

export function fetched(state: DeviceState, event: Event<'fetched'>): void {
  const sequence = inPhase(state, event.sequence, 'fetching')
  if (sequence === undefined) return
  arrived(state, sequence, Math.min(event.tokens, fetchable(sequence)))
  sequence.phase = 'prefilling'
}

export function received(state: DeviceState, { sequence: id, stopped }: Event<'received'>): void {
  const sequence = inPhase(state, id, 'receiving')
  if (sequence === undefined) return
  arrived(state, sequence, sequence.promptTokens)
  sampled(state, sequence, stopped)
}

export function held(state: DeviceState, { sequence: id, tokens }: Event<'held'>): void {
  const sequence = inPhase(state, id, 'attending')
  if (sequence !== undefined) arrived(state, sequence, Math.min(tokens, sequence.promptTokens))
}

export function sent(state: DeviceState, { sequence: id, blocks }: Event<'sent'>): void {
  const sequence = state.sequences.get(id)
  if (sequence === undefined) return
  if (sequence.counter !== undefined && blocks > 0) {
    for (const block of state.memory.blocks(sequence.counter).slice(-blocks)) count(state, block, 'outBlocks')
  }
  state.endSequence(sequence, 'sent')
}

export function offloaded(state: DeviceState, { sequence: id }: Event<'offloaded'>): void {
  const sequence = state.sequences.get(id)
  if (sequence === undefined) return
  sequence.offloaded = true
  if (sequence.phase === 'offloading') startDecoding(state, sequence)
}

export function lend(state: DeviceState, { hashes }: Event<'lend'>): void {
  const lent = state.memory.lend(hashes)
  for (const block of lent.blocks) count(state, block, 'outBlocks')
  state.emit({ type: 'lent', ...lent })
}

/** Attention of another device's sequence read its pages here. */
export function attendReads(state: DeviceState, { sequence: id, ...use }: Event<'reads'>): void {
  const sequence = inPhase(state, id, 'attending')
  if (sequence === undefined) return
  const pages = blocksForTokens(sequence.promptTokens)
  recordReads(state, sequence, 0, state.memory.blocks(sequence.counter).slice(0, pages), use)
}

export function stepFinished(state: DeviceState, event: Event<'step-finished'>): void {
  const { cancelled, elapsedUs } = event
  const parts = state.finishStep()
  if (cancelled) return
  state.costs.ran(parts, elapsedUs)
  for (const part of parts) {
    const sequence = state.sequences.get(part.sequence)
    if (sequence === undefined) continue
    if (event.failed.includes(sequence.id)) state.endSequence(sequence, 'failed')
    else if (hasLease(sequence)) advance(state, sequence, part, event)
  }
}

export function stepFailed(state: DeviceState): void {
  for (const { sequence: id } of state.finishStep()) {
    const sequence = state.sequences.get(id)
    if (sequence !== undefined) state.endSequence(sequence, 'failed')
  }
}

/** Its rows are computed. */
function advance(
  state: DeviceState,
  sequence: Leased,
  { role, start, count: rows, firstPage, blocks, wantLogits }: StepPart,
  { filled, reads, stopped }: Event<'step-finished'>,
): void {
  const { id, counter } = sequence
  sequence.computedTokens = start + rows
  state.memory.filled(counter, fullBlocks(sequence.computedTokens))
  if (role === 'decode') {
    const use = reads.find((own) => own.sequence === id)
    recordReads(state, sequence, firstPage, blocks, use)
    const hash = filled.find((own) => own.sequence === id)?.hash
    if (hash !== undefined) {
      state.memory.filledPage(counter, fullBlocks(sequence.computedTokens) - 1, hash)
    }
  }
  if (!wantLogits) return
  if (sequence.role === 'prefill') sequence.phase = 'computed'
  else sampled(state, sequence, stopped.includes(id))
}

/** A sequence has one more token, which may be its last. */
function sampled(state: DeviceState, sequence: Sequence, stopped: boolean): void {
  sequence.sampledTokens += 1
  if (stopped) state.endSequence(sequence, 'stop')
  else if (sequence.sampledTokens >= sequence.sampleTokensMax) state.endSequence(sequence, 'length')
  else if (!sequence.offloaded) sequence.phase = 'offloading'
  else if (sequence.phase !== 'decoding') startDecoding(state, sequence)
}

function startDecoding(state: DeviceState, sequence: Sequence): void {
  sequence.phase = 'decoding'
  if (sequence.offload?.mode !== 'partial' || sequence.counter === undefined) return
  const pages = Math.min(sequence.offload.pages, fullBlocks(sequence.promptTokens))
  state.memory.giveUp(sequence.counter, pages)
}

/** KV of the first `tokens` tokens has come from another device. */
function arrived(state: DeviceState, sequence: Leased, tokens: number): void {
  const { counter, computedTokens } = sequence
  if (tokens <= computedTokens) return
  const blocks = state.memory.blocks(counter).slice(fullBlocks(computedTokens), blocksForTokens(tokens))
  for (const block of blocks) count(state, block, 'inBlocks')
  sequence.computedTokens = tokens
  state.memory.filled(counter, fullBlocks(tokens))
}

/** A step's attention read these blocks: all of each where `use` is undefined. */
function recordReads(
  state: DeviceState,
  sequence: Leased,
  firstPage: number,
  blocks: readonly number[],
  use: PageUse | undefined,
): void {
  const { table } = state.memory
  const { blockBytes } = state.options
  const blocksRead = sequence.traffic.map(() => 0)
  for (const [index, block] of blocks.entries()) {
    const tier = table.tierOf(block)
    blocksRead[tier] = (blocksRead[tier] ?? 0) + (use === undefined ? 1 : (use.reads[index] ?? 0))
  }
  for (const [tier, traffic] of sequence.traffic.entries()) {
    const bytes = Math.round((blocksRead[tier] ?? 0) * blockBytes)
    traffic.readBytes += bytes
    state.counters.add(tier, 'readBytes', bytes)
  }
  if (state.options.tiers.length < 2) return
  state.heat.record(sequence.counter, firstPage, blocks.length, use)
  state.readSinceMove = true
}

function count(state: DeviceState, block: number, what: 'inBlocks' | 'outBlocks'): void {
  state.counters.add(state.memory.table.tierOf(block), what, 1)
}

function inPhase(state: DeviceState, id: number, phase: Phase): Leased | undefined {
  const sequence = state.sequences.get(id)
  return sequence?.phase === phase && hasLease(sequence) ? sequence : undefined
}

function hasLease(sequence: Sequence): sequence is Leased {
  return sequence.counter !== undefined
}
