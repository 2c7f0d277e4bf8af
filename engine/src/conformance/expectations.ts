/** What cases say when a driver does not do as it should: one sentence that a driver's author can act on. */
import assert from 'node:assert/strict'
import { KvasirError } from '@kvasir/runtime/errors'

type Numbers = Float32Array | Float64Array | Uint32Array | Uint8Array

/** Every number the same, to the bit. */
export function same(what: string, got: Numbers, expected: Numbers): void {
  sameLength(what, got, expected)
  const wrong = placesWhere(got, (value, i) => !Object.is(value, expected[i]) && value !== expected[i])
  assert.ok(wrong.length === 0, differing(what, got, expected, wrong))
}

/** Every number within a tolerance; infinite ones the same. */
export function close(what: string, got: Numbers, expected: Numbers, tolerance: number): void {
  sameLength(what, got, expected)
  const wrong = placesWhere(got, (value, i) => {
    const wanted = expected[i] ?? Number.NaN
    return Number.isFinite(wanted) ? !(Math.abs(value - wanted) <= tolerance) : value !== wanted
  })
  assert.ok(wrong.length === 0, `${differing(what, got, expected, wrong)} (tolerance ${tolerance})`)
}

/** Much the same direction: what numbers that were rounded to 8 bits on the way still have in common. */
export function alike(what: string, got: Float32Array, expected: Float32Array): void {
  sameLength(what, got, expected)
  const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0)
  const cosine = dot(got, expected) / Math.sqrt(dot(got, got) * dot(expected, expected))
  assert.ok(
    cosine >= ALIKE_MIN,
    `${what} should be much the same: their cosine is ${cosine}, not ${ALIKE_MIN} or more.`,
  )
}

const ALIKE_MIN = 0.99

export function equal<T extends string | number | boolean | undefined>(
  what: string,
  got: T,
  expected: T,
): void {
  assert.ok(Object.is(got, expected), `${what} should be ${expected}, but is ${got}.`)
}

export function holds(condition: boolean, sentence: string): asserts condition {
  assert.ok(condition, sentence)
}

/** The call fails, with one of these codes. */
export async function failsWith(what: string, call: Promise<unknown>, ...codes: string[]): Promise<void> {
  const outcome = await call.then(
    () => 'it was done',
    (thrown: unknown) => KvasirError.from(thrown),
  )
  const got = outcome instanceof KvasirError ? outcome.code : outcome
  const detail = outcome instanceof KvasirError ? ` (${outcome.message})` : ''
  assert.ok(codes.includes(got), `${what} should fail with ${codes.join(' or ')}, but: ${got}${detail}.`)
}

function sameLength(what: string, got: Numbers, expected: Numbers): void {
  assert.ok(
    got.length === expected.length,
    `${what} should be ${expected.length} numbers, but are ${got.length}.`,
  )
}

function placesWhere(numbers: Numbers, isWrong: (value: number, place: number) => boolean): number[] {
  const wrong: number[] = []
  for (let i = 0; i < numbers.length; i++) if (isWrong(numbers[i] ?? Number.NaN, i)) wrong.push(i)
  return wrong
}

function differing(what: string, got: Numbers, expected: Numbers, wrong: readonly number[]): string {
  const [first = 0] = wrong
  return `${what} differ at ${wrong.length} of ${expected.length} places, first at ${first}: ${got[first]} instead of ${expected[first]}.`
}
