/** Parsers of option values; a wrong value is a usage error that commander reports by name. */
import { PRIORITY_MAX, PRIORITY_MIN } from '@kvasir/coordinator/core/admission-setting'
import { InvalidArgumentError } from 'commander'

/** A whole number from 0 to `max`. */
export function countOption(max: number): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (/^\d+$/.test(text) && value <= max) return value
    throw new InvalidArgumentError(`Give a whole number from 0 to ${max}.`)
  }
}

/** A whole number from 1 to `max`. */
export function positiveOption(max: number): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (/^\d+$/.test(text) && value >= 1 && value <= max) return value
    throw new InvalidArgumentError(`Give a whole number from 1 to ${max}.`)
  }
}

/** A number from `min` to `max`. */
export function numberOption(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (text.trim() !== '' && value >= min && value <= max) return value
    throw new InvalidArgumentError(`Give a number from ${min} to ${max}.`)
  }
}

/** How urgent a request is. */
export function priorityOption(text: string): number {
  const value = Number(text)
  if (/^-?\d+$/.test(text) && value >= PRIORITY_MIN && value <= PRIORITY_MAX) return value
  throw new InvalidArgumentError(`Give a whole number from ${PRIORITY_MIN} to ${PRIORITY_MAX}.`)
}

/** Bytes a second, as a plain number or with k, M or G: 25M is 25,000,000. */
export function rateOption(text: string): number {
  const value = scaled(text)
  if (value >= 1) return value
  throw new InvalidArgumentError('Give bytes a second, such as 25000000 or 25M.')
}

/** Bytes of a memory, at least `min`, as a plain number or with k, M or G: 64M is 64,000,000. */
export function bytesOption(min: 0 | 1): (text: string) => number {
  return (text) => {
    const value = scaled(text)
    if (value >= min && Number.isSafeInteger(value)) return value
    throw new InvalidArgumentError(
      `Give bytes, such as 64000000, 64M or 1.5G${min === 0 ? '; 0 for none' : '; it cannot be 0'}.`,
    )
  }
}

/** NaN for what is no number with a known unit. */
function scaled(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([kMG]?)$/.exec(text)
  const scale = { '': 1, k: 1e3, M: 1e6, G: 1e9 }[match?.[2] ?? '']
  return Math.round(Number(match?.[1]) * (scale ?? Number.NaN))
}

/** Gathers a repeated option. */
export function listOption(text: string, before: readonly string[] = []): readonly string[] {
  return [...before, text]
}

/** A seed of random numbers: a whole number of at most 32 bits. */
export const seedOption = countOption(2 ** 32 - 1)
