/**
 * What happens to sequences that were taken in: their KV arrives, steps end, their attention reads.
 *
 * Nothing here can be refused; an event about a sequence that has ended, or in a phase that it
 * has left, changes nothing.
 */
import type { BlockTable } from './block-table.js'
import { extendBetween } from './decode-room.js'
import type { DeviceState, Leased, Phase, Sequence } from './device-state.js'
import type { CoreEvent, PageUse, StepPart } from './events.js'
import { fetchable } from './intake.js'

type Event<Type extends CoreEvent['type']> = Extract<CoreEvent, { type: Type }>

export function fetched(state: DeviceState, event: Event<'fetched'>): void {
  const sequence = inPhase(state, event.sequence, 'fetching')
  if (sequence === undefined) return
  arrived(state, sequence, Math.min(event.tokens, fetchable(state, sequence)))
  state.enter(sequence, 'prefilling')
}

export function received(state: DeviceState, { sequence: id, stopped }: Event<'received'>): void {
  const sequence = inPhase(state, id, 'receiving')
  if (sequence === undefined) return
  arrived(state, sequence, sequence.promptTokens)
  sampled(state, sequence, 1, stopped)
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
  recordReads(state, sequence, state.blocksFor(sequence.promptTokens), use, 1)
}

/** What happened between steps that ran as one: before anything that the time of their end brings about. */
export function ranAsOne(state: DeviceState, steps: number): void {
  const { repeatable, running } = state
  const most = repeatable.steps
  if (steps > most) throw new RangeError(`${steps} steps ran as one, where at most ${most} may`)
  if (running !== undefined) extendBetween(state, running.sequences, steps)
}

export function stepFinished(state: DeviceState, event: Event<'step-finished'>): void {
  const { cancelled, elapsedUs, failed, steps = 1 } = event
  const { parts, sequences } = state.finishStep()
  if (cancelled) return
  state.costs.ran(parts, elapsedUs, steps)
  for (let index = 0; index < sequences.length; index += 1) {
    const sequence = sequences[index]
    const part = parts[index]
    if (sequence === undefined || part === undefined || sequence.phase === 'ended') continue
    if (failed.length > 0 && failed.includes(sequence.id)) state.endSequence(sequence, 'failed')
    else if (part.role === 'prefill') prefilled(state, sequence, part, event)
    else decoded(state, sequence, part, event, steps)
  }
}

export function stepFailed(state: DeviceState): void {
  for (const sequence of state.finishStep().sequences) state.endSequence(sequence, 'failed')
}

/** A chunk of its prompt is computed. */
function prefilled(
  state: DeviceState,
  sequence: Leased,
  { start, count: rows, wantLogits }: StepPart,
  { stopped }: Event<'step-finished'>,
): void {
  sequence.computedTokens = start + rows
  state.memory.filled(sequence.counter, state.fullBlocks(sequence.computedTokens))
  if (!wantLogits) return
  if (sequence.role === 'prefill') state.enter(sequence, 'computed')
  else sampled(state, sequence, 1, stopped.includes(sequence.id))
}

/** It has one token more for each step. */
function decoded(
  state: DeviceState,
  sequence: Leased,
  { start }: StepPart,
  { filled, reads, stopped }: Event<'step-finished'>,
  steps: number,
): void {
  const { id } = sequence
  sequence.computedTokens = start + steps
  const use = reads.length === 0 ? undefined : reads.find((own) => own.sequence === id)
  for (let step = 0; step < steps; ) {
    const pages = state.blocksFor(start + step + 1)
    // Until the last of these pages is full, all steps read the same.
    const alike = Math.min(steps - step, pages * state.blockTokens - (start + step))
    recordReads(state, sequence, pages, use, alike)
    step += alike
  }
  const hash = filled.length === 0 ? undefined : filled.find((own) => own.sequence === id)?.hash
  if (hash !== undefined) {
    const pages = state.fullBlocks(sequence.computedTokens)
    state.memory.filled(sequence.counter, pages)
    state.memory.filledPage(sequence.counter, pages - 1, hash)
  }
  sampled(state, sequence, steps, stopped.length > 0 && stopped.includes(id))
}

/** A sequence has more tokens, of which the newest may be its last. */
function sampled(state: DeviceState, sequence: Sequence, tokens: number, stopped: boolean): void {
  sequence.sampledTokens += tokens
  if (stopped) state.endSequence(sequence, 'stop')
  else if (sequence.sampledTokens >= sequence.sampleTokensMax) state.endSequence(sequence, 'length')
  else if (!sequence.offloaded) state.enter(sequence, 'offloading')
  else if (sequence.phase !== 'decoding') startDecoding(state, sequence)
}

function startDecoding(state: DeviceState, sequence: Sequence): void {
  state.enter(sequence, 'decoding')
  if (sequence.offload?.mode !== 'partial' || sequence.counter === undefined) return
  const pages = Math.min(sequence.offload.pages, state.fullBlocks(sequence.promptTokens))
  state.memory.giveUp(sequence.counter, pages)
}

/** KV of the first `tokens` tokens has come from another device. */
function arrived(state: DeviceState, sequence: Leased, tokens: number): void {
  const { counter, holding, computedTokens } = sequence
  if (tokens <= computedTokens) return
  const to = state.blocksFor(tokens)
  for (let page = state.fullBlocks(computedTokens); page < to; page += 1) {
    const block = holding.blocks[page]
    if (block !== undefined) count(state, block, 'inBlocks')
  }
  sequence.computedTokens = tokens
  state.memory.filled(counter, state.fullBlocks(tokens))
}

/** The attention of `steps` steps read all blocks before `page`: all of each where `use` is undefined. */
function recordReads(
  state: DeviceState,
  { counter, holding, traffic }: Leased,
  page: number,
  use: PageUse | undefined,
  steps: number,
): void {
  const { table } = state.memory
  const { blockBytes, tiers } = state.options
  const pages = Math.min(page - holding.first, holding.blocks.length)
  const blocksRead =
    use === undefined
      ? holding.tiersBefore(page, table)
      : readsByTier(holding.blocksBefore(page), use, tiers.length, table)
  for (let tier = 0; tier < traffic.length; tier += 1) {
    const bytes = Math.round((blocksRead[tier] ?? 0) * blockBytes) * steps
    const own = traffic[tier]
    if (own !== undefined) own.readBytes += bytes
    state.counters.read(tier, bytes)
  }
  if (tiers.length < 2 || state.options.tierPolicy === 'static') return
  state.heat.record(counter, holding.first, pages, use, steps)
  state.readSinceMove = true
}

function readsByTier(
  blocks: readonly number[],
  { reads }: PageUse,
  tiers: number,
  table: BlockTable,
): number[] {
  const read = new Array<number>(tiers).fill(0)
  for (const [index, block] of blocks.entries()) {
    const tier = table.tierOf(block)
    read[tier] = (read[tier] ?? 0) + (reads[index] ?? 0)
  }
  return read
}

function count(state: DeviceState, block: number, what: 'inBlocks' | 'outBlocks'): void {
  state.counters.add(state.memory.table.tierOf(block), what, 1)
}

function inPhase(state: DeviceState, id: number, phase: Phase): Leased | undefined {
  const sequence = state.sequences.get(id)
  return sequence?.phase === phase && hasLease(sequence) ? sequence : undefined
}

function hasLease(sequence: Sequence): sequence is Leased {
  return sequence.holding !== undefined
}
