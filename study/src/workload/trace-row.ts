/** One row of a trace, whatever its format, and how its fields are read. */

export interface TraceRow {
  /** Of its own clock, milliseconds. */
  readonly timeMs: number
  readonly promptTokens: number
  readonly outputTokens: number
  readonly maxTokens?: number
  /** Ids of the prompt's blocks of `idTokens` tokens; equal ids: equal content after equal beginnings. */
  readonly ids?: readonly number[]
  readonly idTokens?: number
  readonly tenant?: string
  readonly priority?: number
  readonly ttftDeadlineMs?: number
  readonly leavesAfterMs?: number
}

/** Why a row is no request; the line is added by whoever reads the file. */
export class BrokenRow extends Error {}

/** More than any model reads or writes. */
const PROMPT_TOKENS_MAX = 10_000_000
const OUTPUT_TOKENS_MAX = 1_000_000

export function promptTokensOf(value: unknown, name: string): number {
  return wholeNumber(value, name, 1, PROMPT_TOKENS_MAX)
}

export function outputTokensOf(value: unknown, name: string): number {
  return wholeNumber(value, name, 1, OUTPUT_TOKENS_MAX)
}

/** From a number or its text. Throws BrokenRow. */
export function wholeNumber(value: unknown, name: string, min: number, max: number): number {
  const number = finiteNumber(value, name)
  if (Number.isInteger(number) && number >= min && number <= max) return number
  throw new BrokenRow(`${name} is ${number}; it must be a whole number from ${min} to ${max}`)
}

export function finiteNumber(value: unknown, name: string): number {
  if (value === undefined || value === null || value === '') throw new BrokenRow(`${name} is missing`)
  const number = typeof value === 'string' ? Number(value) : value
  if (typeof number === 'number' && Number.isFinite(number)) return number
  throw new BrokenRow(`${name} is ${JSON.stringify(value)}; it must be a number`)
}

export function positiveNumber(value: unknown, name: string): number {
  const number = finiteNumber(value, name)
  if (number > 0) return number
  throw new BrokenRow(`${name} is ${number}; it must be above 0`)
}

/** `2023-11-16 18:17:03.9799600`, with or without a time zone, which is UTC where it is missing; milliseconds. */
export function dateTimeMs(text: string, name: string): number {
  const match = /^(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(\.\d+)?\s*(?:Z|([+-])(\d\d):?(\d\d))?$/.exec(
    text,
  )
  if (!match) throw new BrokenRow(`${name} is ${JSON.stringify(text)}; it must be a date and time`)
  const [year, month, day, hour, minute, second] = match.slice(1, 7).map(Number)
  const ms = Date.UTC(year ?? 0, (month ?? 1) - 1, day, hour, minute, second)
  const date = new Date(ms)
  if (date.getUTCMonth() + 1 !== month || date.getUTCDate() !== day || date.getUTCHours() !== hour) {
    throw new BrokenRow(`${name} is ${JSON.stringify(text)}, which is no date`)
  }
  const zoneMinutes = Number(match[9] ?? 0) * 60 + Number(match[10] ?? 0)
  return ms + Number(match[7] ?? 0) * 1_000 + (match[8] === '-' ? zoneMinutes : -zoneMinutes) * 60_000
}

/** Ids of blocks: whole numbers from 0 that leave room for the parts of a block. */
export function blockIdsOf(value: unknown, name: string): readonly number[] {
  if (!Array.isArray(value)) throw new BrokenRow(`${name} must be a list of numbers`)
  const ids: readonly unknown[] = value
  return ids.map((id) => wholeNumber(id, name, 0, 2 ** 40))
}
