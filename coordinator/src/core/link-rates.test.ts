/** What is told is what was seen last of exactly this pair, whoever came and went meanwhile. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { LinkRates } from './link-rates.js'

const anyDevice = fc.nat(200).map((index) => `device-${index}`)
const anyMove = fc.oneof(
  {
    weight: 9,
    arbitrary: fc.record({ from: anyDevice, to: anyDevice, rate: fc.integer({ min: 1, max: 1e9 }) }),
  },
  { weight: 1, arbitrary: fc.record({ forget: anyDevice }) },
)

test('rates are those of the pair, in its direction, until one of the two is forgotten', () => {
  fc.assert(
    fc.property(
      fc.array(anyMove, { maxLength: 200 }),
      fc.array(fc.tuple(anyDevice, anyDevice)),
      (moves, pairs) => {
        const rates = new LinkRates()
        const expected = new Map<string, number>()
        const asked = [...pairs]
        for (const move of moves) {
          if ('rate' in move) {
            rates.set(move.from, move.to, move.rate)
            expected.set(`${move.from} ${move.to}`, move.rate)
            asked.push([move.from, move.to], [move.to, move.from])
          } else {
            rates.forget(move.forget)
            for (const key of expected.keys()) if (key.split(' ').includes(move.forget)) expected.delete(key)
          }
        }
        for (const [from, to] of asked) expect(rates.seen(from, to)).toBe(expected.get(`${from} ${to}`))
      },
    ),
  )
})
