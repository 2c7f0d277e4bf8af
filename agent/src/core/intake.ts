/**
 * What asks the device for something and may be refused: leases, and the sequences that use them.
 *
 * Each function says why it refuses, if it does, and then has changed nothing but what an
 * older placement of the same request held.
 */
import type { DeviceState, LeaseFacts, Sequence } from './device-state.js'
import type { CoreEvent, LeasePurpose, Refusal } from './events.js'
import type { LeaseReference } from './lease-table.js'
import { beginsWith, leaseRefusal, placementRefusal } from './placement-rules.js'

type Event<Type extends CoreEvent['type']> = Extract<CoreEvent, { type: Type }>

export function reserve(state: DeviceState, event: Event<'reserve'>, nowMs: number): Refusal | undefined {
  const { requestId, epoch, tokens, hashes, purpose } = event
  const refusal = placementRefusal(state, { role: purpose, requestId, epoch, tokens })
  if (refusal !== undefined) return refusal
  if (purpose === 'decode' && state.decodeSlotsUsed >= state.options.decodeSlots) return 'slots'
  const owner = { role: purpose, requestId, epoch, hashes, sequence: undefined }
  const counter = state.lease(owner, tokens, nowMs)
  if (counter === undefined) return 'memory'
  grant(state, counter)
  return undefined
}

export function extend(
  state: DeviceState,
  { lease, tokens }: Event<'extend'>,
  nowMs: number,
): Refusal | undefined {
  const refusal = leaseRefusal(state, lease)
  if (refusal !== undefined) return refusal
  if (!state.memory.couldEverFit(tokens)) return 'too-large'
  if (!state.memory.extend(lease.counter, tokens)) return 'memory'
  state.leases.renew(lease.counter, nowMs)
  grant(state, lease.counter)
  return undefined
}

export function release(state: DeviceState, { lease }: Event<'release'>): Refusal | undefined {
  const refusal = leaseRefusal(state, lease)
  if (refusal !== undefined && refusal !== 'lease-ended') return refusal
  if (refusal === undefined) state.endLease(lease.counter, 'released')
  state.emit({ type: 'released', wasAlive: refusal === undefined })
  return undefined
}

export function prefill(state: DeviceState, event: Event<'prefill'>): Refusal | undefined {
  const { requestId, epoch, promptTokens, hashes, fetchTokens } = event
  const refusal = placementRefusal(state, { role: 'prefill', requestId, epoch, tokens: promptTokens })
  if (refusal !== undefined) return refusal
  if (state.inPhase.waiting.size >= state.options.waitingMax) return 'queue-full'
  state.add({
    ...newSequence(state, event),
    role: 'prefill',
    promptTokens,
    hashes: firstOf(hashes, state.fullBlocks(promptTokens)),
    fetchTokens,
    roomTokensMax: promptTokens,
    sampleTokensMax: 1,
  })
  return undefined
}

export function decode(state: DeviceState, event: Event<'decode'>): Refusal | undefined {
  const { sequence: id, lease, promptTokens, firstIndex, tokensMax, kv, fetchTokens, offload } = event
  const facts = leaseFor(state, lease, 'decode', event)
  if (typeof facts === 'string') return facts
  const { memory } = state
  const { counter } = lease
  if (!memory.couldEverFit(promptTokens)) return 'too-large'
  const sharedMax = kv === 'pulled' ? state.fullBlocks(promptTokens) : reusableBlocks(state, promptTokens)
  if (!memory.extendSharing(counter, promptTokens, sharedMax)) return 'memory'
  const { contextTokensMax } = state.options
  const sequence: Sequence = {
    ...newSequence(state, event),
    role: 'decode',
    promptTokens,
    hashes: firstOf(event.hashes, state.fullBlocks(promptTokens)),
    fetchTokens,
    roomTokensMax: Math.min(promptTokens + tokensMax - firstIndex, contextTokensMax),
    sampleTokensMax: Math.min(tokensMax - firstIndex, contextTokensMax - promptTokens),
    offload,
    offloaded: offload === undefined,
  }
  attach(state, facts, sequence)
  begin(state, sequence, kv)
  const blocks = [...memory.blocks(counter)]
  state.emit({ type: 'attached', sequence: id, blocks, cachedTokens: sequence.computedTokens })
  return undefined
}

export function attend(state: DeviceState, event: Event<'attend'>): Refusal | undefined {
  const { sequence: id, lease, pages, reuse, hashes } = event
  const facts = leaseFor(state, lease, 'attend', event)
  if (typeof facts === 'string') return facts
  const { memory } = state
  const { counter } = lease
  const promptTokens = pages * state.blockTokens
  if (!memory.couldEverFit(promptTokens)) return 'too-large'
  if (!memory.extend(counter, promptTokens)) return 'memory'
  const shared = Math.min(memory.fullPages(counter), pages)
  const sequence: Sequence = {
    ...newSequence(state, event),
    role: 'attend',
    promptTokens,
    hashes: firstOf(hashes, reuse ? pages : shared),
    roomTokensMax: promptTokens,
    phase: 'attending',
    computedTokens: shared * state.blockTokens,
  }
  attach(state, facts, sequence)
  const blocks = memory.blocks(counter).slice(0, pages)
  state.emit({ type: 'attached', sequence: id, blocks, cachedTokens: sequence.computedTokens })
  return undefined
}

export function push(state: DeviceState, { sequence, lease, hashes }: Event<'push'>): Refusal | undefined {
  const refusal = leaseRefusal(state, lease)
  if (refusal !== undefined) return refusal
  const facts = state.facts.get(lease.counter)
  if (facts === undefined) return 'lease-ended'
  const pages = hashes.length
  if (pages * state.blockTokens > state.memory.roomTokens(lease.counter)) return 'lease-small'
  const { requestId, epoch } = facts
  return attend(state, { type: 'attend', sequence, lease, requestId, epoch, pages, reuse: true, hashes })
}

/** Blocks of a prompt that may come from elsewhere where its last token must be computed for its logits. */
export function reusableBlocks(state: DeviceState, promptTokens: number): number {
  return state.fullBlocks(promptTokens - 1)
}

/** A sequence with a lease gets going: with what is cached, and what is to come. */
export function begin(state: DeviceState, sequence: Sequence, kv: 'pulled' | 'computed'): void {
  sequence.computedTokens = (sequence.holding?.full ?? 0) * state.blockTokens
  const computes = fetchable(state, sequence) > sequence.computedTokens ? 'fetching' : 'prefilling'
  state.enter(sequence, kv === 'pulled' ? 'receiving' : computes)
}

/** Leading tokens of the prompt that may be fetched: whole blocks, and at least one token is computed. */
export function fetchable(state: DeviceState, { fetchTokens, promptTokens }: Sequence): number {
  const blocks = Math.min(state.fullBlocks(fetchTokens), reusableBlocks(state, promptTokens))
  return blocks * state.blockTokens
}

/** The lease, unused, of this very placement and prefix; or why it may not be used. */
function leaseFor(
  state: DeviceState,
  lease: LeaseReference,
  role: LeasePurpose,
  { requestId, epoch, hashes }: Event<'decode' | 'attend'>,
): LeaseFacts | Refusal {
  const refusal = leaseRefusal(state, lease)
  if (refusal !== undefined) return refusal
  const facts = state.facts.get(lease.counter)
  if (facts?.role !== role || facts.requestId !== requestId || facts.epoch !== epoch) return 'lease-mismatch'
  if (!beginsWith(hashes, facts.hashes)) return 'lease-mismatch'
  return facts.sequence === undefined ? facts : 'duplicate'
}

function attach(state: DeviceState, facts: LeaseFacts, sequence: Sequence): void {
  facts.sequence = sequence.id
  state.leases.use(facts.counter)
  state.memory.identify(facts.counter, sequence.hashes)
  state.attach(sequence, facts.counter)
  state.add(sequence)
}

/** The same array where it is no longer. */
function firstOf(hashes: readonly string[], count: number): readonly string[] {
  return hashes.length <= count ? hashes : hashes.slice(0, count)
}

function newSequence(
  state: DeviceState,
  { sequence: id, requestId, epoch }: { sequence: number; requestId: string; epoch: number },
) {
  return {
    id,
    requestId,
    epoch,
    fetchTokens: 0,
    sampleTokensMax: 0,
    offload: undefined,
    offloaded: true,
    counter: undefined,
    holding: undefined,
    phase: 'waiting' as const,
    computedTokens: 0,
    sampledTokens: 0,
    traffic: state.noTraffic(),
  }
}

function grant(state: DeviceState, counter: bigint): void {
  const tokens = state.memory.roomTokens(counter)
  const cachedTokens = state.memory.fullPages(counter) * state.blockTokens
  state.emit({ type: 'granted', counter, tokens, cachedTokens })
}
