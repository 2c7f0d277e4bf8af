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
  FULL,
  KV_TOKENS_FREE,
  KV_TOKENS_MAX,
  type ModelTable,
  PREFERS_DECODE,
  PREFERS_PREFILL,
  ROW_NUMBERS,
  THERE,
  TOKENS_A_BLOCK,
  WINDOWED,
  WITH_MODELS,
} from './device-table.js'
import type { ProfileName } from './facts.js'
import { BLOCK_TOKENS, wholeBlocks } from './kv-blocks.js'
import type { RowsLeft } from './row-list.js'

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

  /** What is left for each role; counts the others. Who attends is looked for only where someone may. */
  pass(mayOffload: boolean): RowsLeft {
    const { rows, left } = this.#table
    left.clear(rows)
    this.#scan(rows, mayOffload, left)
    return left
  }

  /** One that was left is turned away after all. */
  turnAway(role: PlacedRole, reason: FilterReason): void {
    this.counts[role][INDEX[reason]] = (this.counts[role][INDEX[reason]] ?? 0) + 1
  }

  /** In one piece and without calls, since it is run for every device at every placement. */
  #scan(rows: number, mayOffload: boolean, left: RowsLeft): void {
    const { flags, readyUntilMs, refusedUntilMs, protocolVersion, protocolVersionMin } = this.#table
    const { prefill, decode, attend } = this.counts
    const modelFlags = this.model?.flags ?? NO_FLAGS
    const numbers = this.model?.numbers ?? NO_NUMBERS
    const { prefillTokens, avoided } = this.#input
    const { protocolVersion: version, protocolVersionMin: versionMin } = this.#limits
    const nowMs = this.#nowMs
    const needsPages = this.#needsPages
    const isAnyAvoided = avoided.size > 0
    const { prefillFirst, prefillLast, decodeFirst, decodeLast, attend: attending, both } = left
    let blockTokens = BLOCK_TOKENS
    let promptTokens = wholeBlocks(prefillTokens, blockTokens)
    let decodeTokens = wholeBlocks(this.#input.reserveTokens, blockTokens)
    const pages = Math.floor(prefillTokens / BLOCK_TOKENS)
    const attendTokens = pages * BLOCK_TOKENS
    for (let row = 0; row < rows; row += 1) {
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
      if (isAnyAvoided && this.#isAvoided(row)) off = FAILED_BEFORE
      else if ((refusedUntilMs[row] ?? 0) > nowMs) off = REFUSED
      if (numbers[first + TOKENS_A_BLOCK] !== blockTokens) {
        blockTokens = numbers[first + TOKENS_A_BLOCK] ?? BLOCK_TOKENS
        promptTokens = wholeBlocks(prefillTokens, blockTokens)
        decodeTokens = wholeBlocks(this.#input.reserveTokens, blockTokens)
      }
      const tokensMax = numbers[first + KV_TOKENS_MAX] ?? 0
      const tokensFree = numbers[first + KV_TOKENS_FREE] ?? 0

      let against = off
      if ((ofModel & CAN_PREFILL) === 0) against = CAPABILITY
      else if (promptTokens > tokensMax) against = TOO_SMALL
      else if (off === LEFT && promptTokens > tokensFree) against = MEMORY
      const isLeftToPrefill = against === LEFT
      if (isLeftToPrefill) {
        if ((ofModel & PREFERS_PREFILL) !== 0) prefillFirst.push(row)
        else prefillLast.push(row)
      } else prefill[against] = (prefill[against] ?? 0) + 1

      against = off
      if ((ofModel & CAN_DECODE) === 0) against = CAPABILITY
      else if (needsPages && (ofModel & WINDOWED) !== 0) against = SLIDING_WINDOW
      else if (needsPages && (ofModel & CHOOSES_PAGES) === 0) against = CAPABILITY
      else if (decodeTokens > tokensMax) against = TOO_SMALL
      else if (off !== LEFT) against = off
      else if ((ofModel & FULL) !== 0) against = SLOTS
      else if (decodeTokens > tokensFree) against = MEMORY
      if (against === LEFT) {
        if ((ofModel & PREFERS_DECODE) !== 0) decodeFirst.push(row)
        else decodeLast.push(row)
        if (isLeftToPrefill) both[row] = 1
      } else decode[against] = (decode[against] ?? 0) + 1

      if (!mayOffload) continue
      against = off
      const pagesMax = numbers[first + ATTEND_PAGES_MAX] ?? 0
      if ((ofModel & CAN_ATTEND) === 0 || pagesMax === 0 || pages > pagesMax) against = CAPABILITY
      else if ((ofModel & WINDOWED) !== 0) against = SLIDING_WINDOW
      else if (attendTokens > tokensMax) against = TOO_SMALL
      else if (off === LEFT && attendTokens > tokensFree) against = MEMORY
      if (against === LEFT) attending.push(row)
      else attend[against] = (attend[against] ?? 0) + 1
    }
  }

  #isAvoided(row: number): boolean {
    return this.#input.avoided.has(this.model?.loaded[row]?.device.ref.deviceId ?? '')
  }
}

function noCounts(): Counts {
  const nothing = (): number[] => FILTER_REASONS.map(() => 0)
  return { prefill: nothing(), decode: nothing(), attend: nothing() }
}
