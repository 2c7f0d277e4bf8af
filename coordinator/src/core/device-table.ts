/**
 * What every placement asks of all devices, as numbers in rows: a pass over a thousand devices reads a few
 * hundred kilobytes in order instead of following ten thousand references. Derived from the view, which keeps
 * it in step.
 *
 * R1. A device keeps its row while it is known; the row of one that left is used again.
 */
import type { ModelFacts } from './facts.js'
import type { LoadedModel } from './loaded-model.js'
import { RowsLeft } from './row-list.js'

type ModelName = Pick<ModelFacts, 'digest' | 'profile'>

const ROWS_MIN = 64

/** Of a device. */
export const WITH_MODELS = 1
export const DRAINING = 2

/** Of a model on a device. */
export const THERE = 1
export const CAN_PREFILL = 2
export const CAN_DECODE = 4
export const CAN_ATTEND = 8
export const PREFERS_PREFILL = 16
export const PREFERS_DECODE = 32
export const CHOOSES_PAGES = 64
export const WINDOWED = 128
/** Prompts of other models wait on the device, too. */
export const CONTENDED = 256
/** No decode slot is free. */
export const FULL = 512

/**
 * Numbers of a model on a device, by their place in its row. Those that the filters read of every device lie together,
 * and so do those of a prefill: a pass over a thousand rows waits for memory more than for arithmetic.
 */
export const CONTEXT_TOKENS_MAX = 0
/** Whose KV fits when nothing else is there, and now. */
export const KV_TOKENS_MAX = 1
export const KV_TOKENS_FREE = 2
export const ATTEND_PAGES_MAX = 3
export const TOKENS_A_BLOCK = 4
export const SLOTS_USED = 5
export const STEP_OPS_PER_SECOND = 6
/** Shares of the roofline that the device itself was seen to reach; NaN before. */
export const DECODE_EFFICIENCY = 7
export const PREFILL_EFFICIENCY = 8
export const BYTES_PER_SECOND = 9
export const PREFILL_OPS_PER_SECOND = 10
export const PARAMETERS = 11
export const WEIGHT_BYTES = 12
export const KEY_WIDTH = 13
export const POOL_BYTES_PER_TOKEN = 14
export const PREFILL_TOKENS_AHEAD = 15
export const ROW_NUMBERS = 16

/** One model on all devices that have it. */
export class ModelTable {
  flags = new Uint16Array(ROWS_MIN)
  numbers = new Float64Array(ROWS_MIN * ROW_NUMBERS)
  readonly loaded: (LoadedModel | undefined)[] = []
  /** How often slots, memory and turns to prefill came free anywhere. */
  slotsFreed = 0
  memoryFreed = 0
  turnsFreed = 0
  /** Leading blocks of a prompt that the device holds, valid where the stamp is the prompt's. */
  heldBlocks = new Int32Array(ROWS_MIN)
  heldStamps = new Int32Array(ROWS_MIN)
  /** The rows whose stamp is the prompt's, as many as who wrote it says. */
  heldRows = new Int32Array(ROWS_MIN)
  #stamps = 0
  /** Of the blocks of all devices that have or had it. */
  readonly variants = new Set<string>()

  put(row: number, model: LoadedModel): void {
    if (row >= this.flags.length) {
      this.flags = grown(this.flags, new Uint16Array(2 * row))
      this.numbers = grown(this.numbers, new Float64Array(2 * row * ROW_NUMBERS))
      this.heldBlocks = grown(this.heldBlocks, new Int32Array(2 * row))
      this.heldStamps = grown(this.heldStamps, new Int32Array(2 * row))
      this.heldRows = grown(this.heldRows, new Int32Array(2 * row))
    }
    this.variants.add(model.facts.variant)
    this.loaded[row] = model
    const first = row * ROW_NUMBERS
    this.numbers[first + PREFILL_EFFICIENCY] = Number.NaN
    this.numbers[first + DECODE_EFFICIENCY] = Number.NaN
  }

  /** For one more prompt. */
  newStamp(): number {
    this.#stamps = this.#stamps === 0x7fff_ffff ? 1 : this.#stamps + 1
    return this.#stamps
  }

  clear(row: number): void {
    this.loaded[row] = undefined
    this.flags[row] = 0
  }
}

/** All devices, and the models on them. */
export class DeviceTable {
  /** Rows from 0 up to, not including, this one are or were in use. */
  rows = 0
  /** 0 where there is no device. */
  flags = new Uint8Array(ROWS_MIN)
  /** Until when the device counts as heard if nothing more is heard of it. */
  readyUntilMs = new Float64Array(ROWS_MIN)
  /** It refused, and is left alone until then. */
  refusedUntilMs = new Float64Array(ROWS_MIN)
  protocolVersion = new Int32Array(ROWS_MIN)
  protocolVersionMin = new Int32Array(ROWS_MIN)
  /** How often something was learned of a device that may make it one more to place on. */
  changes = 0
  /** For the pass over all rows that goes on. */
  readonly left = new RowsLeft()
  /** By digest and profile. */
  readonly #models = new Map<string, ModelTable>()
  readonly #free: number[] = []

  newRow(): number {
    const row = this.#free.pop() ?? this.rows
    if (row < this.rows) return row
    this.rows += 1
    if (row >= this.flags.length) {
      this.flags = grown(this.flags, new Uint8Array(2 * row))
      this.readyUntilMs = grown(this.readyUntilMs, new Float64Array(2 * row))
      this.refusedUntilMs = grown(this.refusedUntilMs, new Float64Array(2 * row))
      this.protocolVersion = grown(this.protocolVersion, new Int32Array(2 * row))
      this.protocolVersionMin = grown(this.protocolVersionMin, new Int32Array(2 * row))
    }
    return row
  }

  /** The device left. */
  freeRow(row: number): void {
    this.flags[row] = 0
    for (const model of this.#models.values()) model.clear(row)
    this.#free.push(row)
  }

  /** Undefined for a model that no device has had. */
  model({ digest, profile }: ModelName): ModelTable | undefined {
    return this.#models.get(`${digest}/${profile}`)
  }

  /** The same, made where it is not there yet. */
  tableOf(named: ModelName): ModelTable {
    const table = this.model(named) ?? new ModelTable()
    this.#models.set(`${named.digest}/${named.profile}`, table)
    return table
  }
}

function grown<T extends Uint8Array | Uint16Array | Int32Array | Float64Array>(from: T, to: T): T {
  to.set(from)
  return to
}
