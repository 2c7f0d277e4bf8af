/**
 * Which devices could take a part in serving a request: the absolute part of placement, in the order of
 * FILTER_REASONS. One pass over the rows of all devices, which counts those that are turned away.
 */
import { type AttentionInput, needsPages } from './attention-placement.js'
import type { ClusterView } from './cluster-view.js'
import { FILTER_REASONS, type FilterReason, type PlacedRole } from './decision.js'
import {
  ATTEND_PAGES_MAX,
  CAN_ATTEND,
  CAN_DECODE,
  CAN_PREFILL,
  CHOOSES_PAGES,
  CONTEXT_TOKENS_MAX,
  type DeviceTable,
  DRAINING,
  KV_BYTES_FREE,
  KV_BYTES_MAX,
  type ModelTable,
  POOL_BYTES_PER_TOKEN,
  ROW_NUMBERS,
  SLOTS_MAX,
  SLOTS_USED,
  THERE,
  WINDOWED,
  WITH_MODELS,
} from './device-table.js'
import type { ProfileName } from './facts.js'
import { BLOCK_TOKENS, wholeBlocks } from './kv-blocks.js'

export interface FilterInput {
  readonly modelDigest: string
  /** Tokens to prefill, and to reserve room for on the decoding device. */
  readonly prefillTokens: number
  readonly reserveTokens: number
  readonly attention: AttentionInput
  /** Devices that failed this request a moment ago. */
  readonly avoided: ReadonlySet<string>
}

export interface PlacementLimits {
  readonly protocolVersion: number
  readonly protocolVersionMin: number
}

/** Takes the rows that are left, in order. */
export interface RowTaker {
  prefill(row: number): void
  decode(row: number): void
  attend(row: number): void
}

const INDEX = Object.fromEntries(FILTER_REASONS.map((reason, index) => [reason, index])) as Readonly<
  Record<FilterReason, number>
>
const LOST = INDEX.lost
const DRAINS = INDEX.draining
const PROTOCOL = INDEX.protocol
const MODEL = INDEX.model
const CAPABILITY = INDEX.capability
const SLIDING_WINDOW = INDEX['sliding-window']
const TOO_SMALL = INDEX['too-small']
const FAILED_BEFORE = INDEX['failed-before']
const REFUSED = INDEX.refused
const SLOTS = INDEX.slots
const MEMORY = INDEX.memory
type Counts = Readonly<Record<PlacedRole, number[]>>

/** Nothing speaks against the device. */
const LEFT = -1
/** Of a model that no device has had. */
const NO_FLAGS = new Uint16Array(0)
const NO_NUMBERS = new Float64Array(0)

export class DeviceFilter {
  /** Of the model, on all devices; undefined where none has had it. */
  readonly model: ModelTable | undefined
  readonly counts = noCounts()
  readonly #table: DeviceTable
  readonly #input: FilterInput
  readonly #limits: PlacementLimits
  readonly #nowMs: number
  readonly #needsPages: boolean
  readonly #single = new SingleRow()

  constructor(
    input: FilterInput,
    profile: ProfileName,
    view: ClusterView,
    limits: PlacementLimits,
    nowMs: number,
  ) {
    this.#table = view.table
    this.model = view.table.model({ digest: input.modelDigest, profile })
    this.#input = input
    this.#limits = limits
    this.#nowMs = nowMs
    this.#needsPages = needsPages(input.attention)
  }

  /** Gives what is left for each role and counts the others; who attends is asked for only where someone may. */
  pass(mayOffload: boolean, taker: RowTaker): void {
    this.#scan(0, this.#table.rows, mayOffload, taker, this.counts)
  }

  /** One that was left is turned away after all. */
  turnAway(role: PlacedRole, reason: FilterReason): void {
    this.counts[role][INDEX[reason]] = (this.counts[role][INDEX[reason]] ?? 0) + 1
  }

  isLeft(row: number, role: 'prefill' | 'decode'): boolean {
    const { taken } = this.#single
    taken.prefill = false
    taken.decode = false
    this.#scan(row, row + 1, false, this.#single, this.#single.counts)
    return taken[role]
  }

  /** In one piece and without calls, since it is run for every device at every placement. */
  #scan(begin: number, end: number, mayOffload: boolean, taker: RowTaker, counts: Counts): void {
    const { flags, readyUntilMs, refusedUntilMs, protocolVersion, protocolVersionMin } = this.#table
    const { prefill, decode, attend } = counts
    const modelFlags = this.model?.flags ?? NO_FLAGS
    const numbers = this.model?.numbers ?? NO_NUMBERS
    const { prefillTokens, avoided } = this.#input
    const { protocolVersion: version, protocolVersionMin: versionMin } = this.#limits
    const nowMs = this.#nowMs
    const promptTokens = wholeBlocks(prefillTokens)
    const decodeTokens = wholeBlocks(this.#input.reserveTokens)
    const pages = Math.floor(prefillTokens / BLOCK_TOKENS)
    for (let row = begin; row < end; row += 1) {
      const ofDevice = flags[row] ?? 0
      // Who has no model at all, such as a host agent, is no device that could be turned away.
      if ((ofDevice & WITH_MODELS) === 0) continue
      const ofModel = modelFlags[row] ?? 0
      const first = row * ROW_NUMBERS
      let useless = LEFT
      if (!((readyUntilMs[row] ?? 0) >= nowMs)) useless = LOST
      else if ((ofDevice & DRAINING) !== 0) useless = DRAINS
      else if ((protocolVersion[row] ?? 0) < versionMin) useless = PROTOCOL
      else if ((protocolVersionMin[row] ?? 0) > version) useless = PROTOCOL
      else if ((ofModel & THERE) === 0) useless = MODEL
      else if ((numbers[first + CONTEXT_TOKENS_MAX] ?? 0) < prefillTokens) useless = MODEL
      if (useless !== LEFT) {
        prefill[useless] = (prefill[useless] ?? 0) + 1
        decode[useless] = (decode[useless] ?? 0) + 1
        if (mayOffload) attend[useless] = (attend[useless] ?? 0) + 1
        continue
      }
      // Not to be asked for a while, in whatever role.
      let off = LEFT
      if (avoided.size > 0 && this.#isAvoided(row)) off = FAILED_BEFORE
      else if ((refusedUntilMs[row] ?? 0) > nowMs) off = REFUSED
      const bytesPerToken = numbers[first + POOL_BYTES_PER_TOKEN] ?? 0
      const bytesMax = numbers[first + KV_BYTES_MAX] ?? 0
      const bytesFree = numbers[first + KV_BYTES_FREE] ?? 0

      let against = off
      if ((ofModel & CAN_PREFILL) === 0) against = CAPABILITY
      else if (promptTokens * bytesPerToken > bytesMax) against = TOO_SMALL
      else if (off === LEFT && promptTokens * bytesPerToken > bytesFree) against = MEMORY
      if (against === LEFT) taker.prefill(row)
      else prefill[against] = (prefill[against] ?? 0) + 1

      against = off
      if ((ofModel & CAN_DECODE) === 0) against = CAPABILITY
      else if (this.#needsPages && (ofModel & WINDOWED) !== 0) against = SLIDING_WINDOW
      else if (this.#needsPages && (ofModel & CHOOSES_PAGES) === 0) against = CAPABILITY
      else if (decodeTokens * bytesPerToken > bytesMax) against = TOO_SMALL
      else if (off !== LEFT) against = off
      else if ((numbers[first + SLOTS_USED] ?? 0) >= (numbers[first + SLOTS_MAX] ?? 0)) against = SLOTS
      else if (decodeTokens * bytesPerToken > bytesFree) against = MEMORY
      if (against === LEFT) taker.decode(row)
      else decode[against] = (decode[against] ?? 0) + 1

      if (!mayOffload) continue
      against = off
      const pagesMax = numbers[first + ATTEND_PAGES_MAX] ?? 0
      if ((ofModel & CAN_ATTEND) === 0 || pagesMax === 0 || pages > pagesMax) against = CAPABILITY
      else if ((ofModel & WINDOWED) !== 0) against = SLIDING_WINDOW
      else if (pages * BLOCK_TOKENS * bytesPerToken > bytesMax) against = TOO_SMALL
      else if (off === LEFT && pages * BLOCK_TOKENS * bytesPerToken > bytesFree) against = MEMORY
      if (against === LEFT) taker.attend(row)
      else attend[against] = (attend[against] ?? 0) + 1
    }
  }

  #isAvoided(row: number): boolean {
    return this.#input.avoided.has(this.model?.loaded[row]?.device.ref.deviceId ?? '')
  }
}

/** Takes one row, which was counted before. */
class SingleRow implements RowTaker {
  readonly counts = noCounts()
  readonly taken = { prefill: false, decode: false }

  prefill(): void {
    this.taken.prefill = true
  }

  decode(): void {
    this.taken.decode = true
  }

  attend(): void {}
}

function noCounts(): Counts {
  const nothing = (): number[] => FILTER_REASONS.map(() => 0)
  return { prefill: nothing(), decode: nothing(), attend: nothing() }
}
