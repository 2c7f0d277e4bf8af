/**
 * Between two steps: pages move, decodes make sure of their room, waiting prefills come in, and the
 * rows of the next step are chosen.
 */
import { blocksForTokens } from './block-allocator.js'
import { ensureRoom } from './decode-room.js'
import type { DeviceState, Sequence } from './device-state.js'
import { begin, reusableBlocks } from './intake.js'
import { planRows } from './step-planner.js'
import type { TierMover } from './tier-mover.js'

/** Starts a step where none runs and there are rows; lets in who waits in any case. */
export function startNextStep(state: DeviceState, mover: TierMover, nowMs: number): void {
  const idle = state.running === undefined
  if (idle && mover.active && state.readSinceMove) {
    state.readSinceMove = false
    mover.move(state)
  }
  const decodes = idle ? decodesWithRoom(state) : []
  admitWaiting(state, nowMs)
  if (!idle) return
  const prefills = [...state.sequences.values()]
    .filter(({ phase }) => phase === 'prefilling')
    .map(({ id, computedTokens, promptTokens }) => ({ sequence: id, computedTokens, promptTokens }))
  const { limits } = state.options
  const sharedChunkTokens = state.costs.sharedChunkTokens(limits)
  const rows = planRows(prefills, decodes, { ...limits, sharedChunkTokens })
  if (rows.length === 0) return
  state.startStep(
    rows.map((row) => {
      const counter = state.sequences.get(row.sequence)?.counter ?? 0n
      const firstPage = state.memory.firstPage(counter)
      const blocks = blocksForTokens(row.start + row.count) - firstPage
      return { ...row, firstPage, blocks: state.memory.blocks(counter).slice(0, blocks) }
    }),
  )
}

/** Prompt tokens that are still to be computed; of sequences that have memory, or of all. */
export function prefillTokens(state: DeviceState, whose: 'admitted' | 'all'): number {
  let tokens = 0
  for (const { phase, promptTokens, computedTokens } of state.sequences.values()) {
    const counts = phase === 'prefilling' || phase === 'fetching' || (phase === 'waiting' && whose === 'all')
    if (counts) tokens += promptTokens - computedTokens
  }
  return tokens
}

function decodesWithRoom(state: DeviceState): { sequence: number; position: number }[] {
  const candidates = [...state.sequences.values()].filter(({ phase }) => phase === 'decoding')
  const fitting = candidates.filter((sequence) => {
    // A sequence preempted for the sake of an older one is not asked any more.
    if (!state.sequences.has(sequence.id) || sequence.counter === undefined) return false
    return ensureRoom(state, sequence, sequence.counter)
  })
  return fitting
    .filter(({ id }) => state.sequences.has(id))
    .map(({ id, promptTokens, sampledTokens }) => ({
      sequence: id,
      position: promptTokens + sampledTokens - 1,
    }))
}

function admitWaiting(state: DeviceState, nowMs: number): void {
  const waiting = [...state.sequences.values()].filter(({ phase }) => phase === 'waiting')
  for (const sequence of waiting) {
    const counter = leaseFor(state, sequence, nowMs)
    // First come, first served: nobody overtakes a long prompt, or it would wait for ever.
    if (counter === undefined) return
    const tokensAhead = prefillTokens(state, 'admitted')
    sequence.counter = counter
    begin(state, sequence, 'computed')
    const blocks = [...state.memory.blocks(counter)]
    const cachedTokens = sequence.computedTokens
    state.emit({ type: 'admitted', sequence: sequence.id, counter, blocks, tokensAhead, cachedTokens })
  }
}

function leaseFor(state: DeviceState, sequence: Sequence, nowMs: number): bigint | undefined {
  const { id, requestId, epoch, promptTokens, hashes } = sequence
  const shared = hashes.slice(0, reusableBlocks(promptTokens))
  const owner = { role: 'prefill', requestId, epoch, hashes: shared, sequence: id } as const
  const counter = state.lease(owner, promptTokens, nowMs)
  if (counter !== undefined) state.memory.identify(counter, hashes)
  return counter
}
