/**
 * Judges which requests can have their first token in time, from what waits, what devices do and what was measured
 * of requests before (ttft-forecast.ts).
 *
 * A1. Only requests with a deadline of their own or the coordinator's are judged; nobody is refused for another's.
 * A2. What is remembered is bounded: of LINES_MAX models and profiles.
 */
import type { AdmissionSetting } from './admission-setting.js'
import { PRIORITY_MAX, PRIORITY_MIN } from './admission-setting.js'
import { CAN_DECODE, CAN_PREFILL, PREFERS_PREFILL, THERE } from './device-table.js'
import { type ProfileName, profilesFor } from './facts.js'
import type { LoadedModel } from './loaded-model.js'
import type { PlacementView } from './placement.js'
import type { Submission } from './protocol.js'
import { TtftForecast } from './ttft-forecast.js'

const LINES_MAX = 64
/** Of answers nothing is known before some have ended, and no more than so many tokens are counted on. */
const ANSWER_TOKENS_GUESS = 256
const ANSWER_WEIGHT = 0.05
/** Devices and what they do are looked at anew after so long. */
const CAPACITY_FRESH_MS = 1_000
/** A prompt waits here and not on a device where those before it are predicted to take longer. */
const AHEAD_MAX_MS = 250
/**
 * How far what was measured may bend that. Prompts that share steps seem quicker the more of them wait, which must not
 * let more of them wait.
 */
const HELD_RATIO_MIN = 0.5
const HELD_RATIO_MAX = 4

/** What is asked of a request that waits. */
export interface JudgedRequest {
  readonly line: string
  readonly modelDigest: string
  readonly profile: ProfileName
  readonly promptTokens: number
  readonly workTokens: number
}

interface Capacity {
  readonly atMs: number
  /** The device on which a prompt is predicted to take least. */
  readonly quickest: LoadedModel | undefined
  readonly tokensPerMs: number
}

/** What is known of the requests for one model in one profile. */
interface Known {
  readonly forecast: TtftForecast
  answerTokens: number | undefined
  capacity: Capacity | undefined
}

export class Admission {
  readonly isOn: boolean
  readonly #cluster: PlacementView
  readonly #setting: AdmissionSetting
  readonly #lines = new Map<string, Known>()

  constructor(cluster: PlacementView, setting: AdmissionSetting = {}) {
    this.#cluster = cluster
    this.#setting = setting
    this.isOn = setting.isOn !== false
  }

  readonly weightOf = (tenant: string): number => {
    const weight = this.#setting.tenantWeights?.[tenant] ?? 1
    return weight > 0 && Number.isFinite(weight) ? weight : 1
  }

  /** Of the first token, from now; infinite where there is none. */
  deadlineMs({ ttftDeadlineMs }: Pick<Submission, 'ttftDeadlineMs'>): number {
    return ttftDeadlineMs ?? this.#setting.ttftDeadlineMs ?? Number.POSITIVE_INFINITY
  }

  forecast(line: string): TtftForecast {
    return this.#of(line).forecast
  }

  /** Tokens that an answer of at most `maxTokens` is expected to have. */
  answerTokens(line: string, maxTokens: number): number {
    return Math.min(maxTokens, this.#of(line).answerTokens ?? ANSWER_TOKENS_GUESS)
  }

  /** An answer has ended. */
  answered(line: string, tokens: number): void {
    const known = this.#of(line)
    const before = known.answerTokens
    known.answerTokens = before === undefined ? tokens : before + ANSWER_WEIGHT * (tokens - before)
  }

  /** On the quickest device, were it idle, milliseconds; 0 where no device is known. */
  prefillMs(request: JudgedRequest, nowMs: number): number {
    const { quickest } = this.#capacity(request, nowMs)
    if (!quickest) return 0
    return this.#cluster.costs.prefillMs(quickest.device.facts, quickest.facts, request.promptTokens)
  }

  /** From now to the first token of one that waits behind so much work, milliseconds. */
  waitingMs(request: JudgedRequest, tokensAhead: number, nowMs: number): number {
    const forecast = this.forecast(request.line)
    const { tokensPerMs } = this.#capacity(request, nowMs)
    // Its own place comes free at the same rate.
    const waitMs = forecast.waitMs(tokensAhead + request.workTokens, tokensPerMs, nowMs)
    return waitMs + forecast.laterMs(this.prefillMs(request, nowMs))
  }

  /** Whether one that could be placed had better wait here, since `aheadMs` of prompts are before it on the device. */
  isHeld(line: string, aheadMs: number): boolean {
    if (!this.isOn) return false
    const forecast = this.forecast(line)
    const ratio = Math.min(HELD_RATIO_MAX, Math.max(HELD_RATIO_MIN, forecast.ratio))
    return forecast.isConfirmed && ratio * aheadMs > AHEAD_MAX_MS
  }

  /** Notes for every line whether some wait. */
  noteWaiting(isAnyone: (line: string) => boolean, nowMs: number): void {
    for (const [line, { forecast }] of this.#lines) forecast.waiting(isAnyone(line), nowMs)
  }

  #of(line: string): Known {
    const known = this.#lines.get(line)
    if (known) return known
    if (this.#lines.size >= LINES_MAX) {
      const [oldest] = this.#lines.keys()
      if (oldest !== undefined) this.#lines.delete(oldest)
    }
    const made: Known = { forecast: new TtftForecast(), answerTokens: undefined, capacity: undefined }
    this.#lines.set(line, made)
    return made
  }

  #capacity(request: JudgedRequest, nowMs: number): Capacity {
    const known = this.#of(request.line)
    if (!known.capacity || nowMs - known.capacity.atMs >= CAPACITY_FRESH_MS) {
      known.capacity = capacityFor(request, this.#cluster, nowMs)
    }
    return known.capacity
  }
}

/** A priority as it counts. */
export function boundedPriority(priority = 0): number {
  if (Number.isNaN(priority)) return 0
  return Math.min(PRIORITY_MAX, Math.max(PRIORITY_MIN, Math.round(priority)))
}

/**
 * What all devices together are predicted to do of requests like this: prompts or answers, whatever is slower. Where
 * some prefer prefill only they count for prompts.
 */
function capacityFor(request: JudgedRequest, { view, costs }: PlacementView, nowMs: number): Capacity {
  const { modelDigest, profile, promptTokens, workTokens } = request
  const answerTokens = Math.max(1, workTokens - promptTokens)
  let quickest: LoadedModel | undefined
  let quickestMs = Number.POSITIVE_INFINITY
  let preferredPerMs = 0
  let othersPerMs = 0
  let answersPerMs = 0
  for (const name of profilesFor(profile)) {
    const table = view.table.model({ digest: modelDigest, profile: name })
    for (const model of table?.loaded ?? []) {
      if (!model) continue
      const flags = table?.flags[model.device.row] ?? 0
      const isReady = (view.table.readyUntilMs[model.device.row] ?? 0) >= nowMs
      if ((flags & THERE) === 0 || !isReady) continue
      const { facts } = model.device
      if ((flags & CAN_PREFILL) !== 0) {
        const ms = costs.prefillMs(facts, model.facts, promptTokens)
        if ((flags & PREFERS_PREFILL) !== 0) preferredPerMs += 1 / ms
        else othersPerMs += 1 / ms
        if (ms < quickestMs) {
          quickest = model
          quickestMs = ms
        }
      }
      if ((flags & CAN_DECODE) !== 0) {
        const slots = Math.max(1, facts.decodeSlots)
        const stepMs = costs.stepMs(facts, model.facts, slots, promptTokens + answerTokens / 2)
        answersPerMs += slots / (stepMs * answerTokens)
      }
    }
  }
  const promptsPerMs = preferredPerMs > 0 ? preferredPerMs : othersPerMs
  return { atMs: nowMs, quickest, tokensPerMs: Math.min(promptsPerMs, answersPerMs) * workTokens }
}
