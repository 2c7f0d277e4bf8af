import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createStopMatcher } from './stop-matcher.js'

function run(stops: readonly string[], pieces: readonly string[]) {
  const matcher = createStopMatcher(stops)
  let text = ''
  for (const piece of pieces) {
    const result = matcher.push(piece)
    text += result.text
    if (result.stopped) return { text, stopped: true }
  }
  return { text: text + matcher.flush(), stopped: false }
}

describe('stop matcher', () => {
  it('finds a stop string across pushes and emits nothing of it', () => {
    const matcher = createStopMatcher(['END'])
    expect(matcher.push('a E')).toEqual({ text: 'a ', stopped: false })
    expect(matcher.push('N')).toEqual({ text: '', stopped: false })
    expect(matcher.push('D b')).toEqual({ text: '', stopped: true })
    expect(matcher.push('more')).toEqual({ text: '', stopped: true })
    expect(matcher.flush()).toBe('')
  })

  it('gives back what only looked like a stop string', () => {
    expect(run(['END'], ['E', 'N', 'E', 'N'])).toEqual({ text: 'ENEN', stopped: false })
  })

  it('passes everything through without stop strings', () => {
    expect(run(['', ''], ['a', 'b'])).toEqual({ text: 'ab', stopped: false })
  })

  it('depends on the text alone, and equals a search one character at a time', () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'b', '\n'), maxLength: 30 })
    const stop = fc.string({ unit: fc.constantFrom('a', 'b', '\n'), minLength: 1, maxLength: 4 })
    fc.assert(
      fc.property(
        text,
        fc.array(stop, { maxLength: 3 }),
        fc.array(fc.nat(30), { maxLength: 5 }),
        (whole, stops, cuts) => {
          const bounds = [0, ...cuts.filter((cut) => cut < whole.length).sort((a, b) => a - b), whole.length]
          const pieces = bounds.slice(1).map((end, i) => whole.slice(bounds[i], end))
          let expected = { text: whole, stopped: false }
          for (let end = 1; end <= whole.length; end++) {
            const found = stops.filter((s) => whole.endsWith(s, end)).map((s) => s.length)
            if (found.length === 0) continue
            expected = { text: whole.slice(0, end - Math.max(...found)), stopped: true }
            break
          }
          expect(run(stops, pieces)).toEqual(expected)
        },
      ),
      { numRuns: 1000 },
    )
  })
})
