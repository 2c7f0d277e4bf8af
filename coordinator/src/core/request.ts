/**
 * One request as the core keeps it: a few counts and which epoch is in force.
 *
 * R1. `emitted` only grows, by one token after the other (I3).
 * R2. In state `queued` there is no epoch in force and nothing is committed; in every
 *     other state there is one.
 */
import type { AttentionPlan } from './attention-plan.js'
import type { AttentionWish } from './attention-wish.js'
import type { BlockHashes } from './block-hashes.js'
import type { Decision } from './decision.js'
import type { DeviceRef, ProfileName } from './facts.js'
import type { Commitment, LoadedModel } from './loaded-model.js'
import type { WaitNote } from './protocol.js'
import type { Waiting } from './wait-line.js'

/** What an epoch takes of the view, by what ends it. */
export type Share =
  /** Slot and memory of the decoding device: until the epoch ends. */
  | 'decode'
  /** Memory of the prompt where another device prefills: until its KV is sent. */
  | 'prompt'
  /** Memory of the prompt's pages where another device attends: until the epoch ends. */
  | 'attend'
  /** A place in the queue of the prefilling device: until the prompt is computed. */
  | 'turn'

export interface Epoch {
  readonly number: number
  readonly decision: Decision
  /** Tokens that the client has when it begins. */
  readonly firstIndex: number
  /** They are decoded again: the calls begin with the first token, and all come from the decoding device. */
  readonly isReplay: boolean
  readonly placedAtMs: number
  readonly shares: Map<Share, { readonly model: LoadedModel; readonly commitment: Commitment }>
  /** The first token comes from another device and is not here yet. */
  awaitsPrefill: boolean
  /** Index of the next token from the decoding device. */
  decodeNext: number
  hasDecodeStarted: boolean
  /** The decoding device said that it is done, which counts once every token is here. */
  finished: 'stop' | 'length' | null
}

export type AttentionSettled = Pick<AttentionPlan, 'method' | 'budget'>

/** Why there was no place, and what was free then: until that changes or time has passed there will be none. */
export interface Stuck {
  readonly why: 'slots' | 'room' | 'prompts'
  readonly freed: number
}

export interface Request extends Waiting {
  readonly modelDigest: string
  readonly profile: ProfileName
  readonly promptTokens: number
  readonly maxTokens: number
  /** Of the prompt's full blocks; empty where nothing may be reused. */
  readonly blockHashes: BlockHashes
  /** How decoding attends, where the client asked. */
  readonly attention: AttentionWish | undefined
  /** Method and budget that its calls once began with, which stay: other ones would give other tokens. */
  attentionSettled: AttentionSettled | null
  readonly deadlineMs: number
  /** When its first token is due; infinite where it has no deadline. */
  readonly ttftDueMs: number
  /** In state queued: what was free when it was last found that there is no place for it; null: not tried. */
  stuck: Stuck | null
  /** Why it had to wait at first. */
  waitCause: WaitNote['cause']
  /** Work before it when it came. */
  tokensAhead: number
  /** Its tenant is charged for it. */
  isCharged: boolean
  state: 'queued' | 'reserving' | 'running'
  /** Calls were started once, so that it goes to the head of the queue when it loses its place. */
  hasBegun: boolean
  emitted: number
  /** Epochs used so far. */
  epochs: number
  epoch: Epoch | null
  /** In state queued: when waiting is over. */
  placeByMs: number
  /** In state queued: when it was last judged whether waiting may help. */
  judgedAtMs: number
  /** In the other states: when silence means failure. */
  progressByMs: number
  failures: number
  movedBecause: string | null
  /** Devices to avoid, until when, and how often they failed this request. */
  readonly avoided: Map<string, { untilMs: number; failures: number }>
}

/**
 * Whether what was generated must be decoded again and not prefilled: prefill is dense, and would give it
 * other KV than the attention that it was generated with.
 */
export function mustReplay({ emitted, attentionSettled }: Request): boolean {
  return emitted > 0 && attentionSettled !== null && attentionSettled.method !== 'dense'
}

export function movesToAnotherDevice(epoch: Epoch): boolean {
  return epoch.decision.prefill.deviceId !== epoch.decision.decode.deviceId
}

/** Index after the last token that can be handed on in order. */
export function availableTokens(request: Request, epoch: Epoch): number {
  if (epoch.awaitsPrefill) return request.emitted
  return Math.min(epoch.decodeNext, request.maxTokens)
}

/** Whether an epoch cannot go on without this life of the device. */
export function isNeeded(epoch: Epoch, device: DeviceRef): boolean {
  const is = (ref: DeviceRef): boolean =>
    ref.deviceId === device.deviceId && ref.incarnation === device.incarnation
  const { attend } = epoch.decision.attention
  if (attend && is(attend)) return true
  return is(epoch.decision.decode) || (is(epoch.decision.prefill) && !isPrefillOver(epoch))
}

/** Its KV has arrived and its token too: the prefilling device is no longer needed. */
export function isPrefillOver(epoch: Epoch): boolean {
  return epoch.hasDecodeStarted && !epoch.awaitsPrefill
}

/** A device that failed a request is avoided by it for so long, doubled with every failure. */
const AVOID_MS = 500
const AVOID_MAX_MS = 8_000

export function avoid(request: Request, deviceId: string, nowMs: number): void {
  const failures = (request.avoided.get(deviceId)?.failures ?? 0) + 1
  const untilMs = nowMs + Math.min(AVOID_MAX_MS, AVOID_MS * 2 ** (failures - 1))
  request.avoided.set(deviceId, { untilMs, failures })
}

/** Devices that failed it a moment ago. */
export function avoidedNow({ avoided }: Request, nowMs: number): ReadonlySet<string> {
  if (avoided.size === 0) return NOBODY
  return new Set([...avoided].flatMap(([deviceId, { untilMs }]) => (untilMs > nowMs ? [deviceId] : [])))
}

const NOBODY: ReadonlySet<string> = new Set()
