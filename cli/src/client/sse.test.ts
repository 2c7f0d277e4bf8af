import fc from 'fast-check'
import { expect, test } from 'vitest'
import { SseParser, sseEvents } from './sse.js'

const bytes = (text: string) => new TextEncoder().encode(text)

test('events are separated by empty lines, comments and other fields are skipped', () => {
  const parser = new SseParser()
  expect(parser.push(bytes(': hello\ndata: {"a":1}\n\nevent: x\ndata:two\ndata: lines\n\n'))).toEqual([
    '{"a":1}',
    'two\nlines',
  ])
})

test('an event that was cut off is dropped', async () => {
  async function* body() {
    yield bytes('data: whole\n\ndata: half')
  }
  const seen: string[] = []
  for await (const event of sseEvents(body())) seen.push(event)
  expect(seen).toEqual(['whole'])
})

test('cuts anywhere, inside characters and line ends, change nothing', () => {
  const lineEnd = fc.constantFrom('\n', '\r\n', '\r')
  const texts = fc.array(fc.stringMatching(/^[a-zæ猫🜚 ]{1,12}$/u), { minLength: 1, maxLength: 6 })
  fc.assert(
    fc.property(texts, lineEnd, fc.array(fc.nat(400), { maxLength: 12 }), (events, end, cuts) => {
      const all = bytes(
        events.map((event) => `data: ${event}${end}${end}`).join('') + (end === '\r' ? ':' : ''),
      )
      const places = [0, ...cuts.map((cut) => cut % (all.length + 1)).sort((a, b) => a - b), all.length]
      const parser = new SseParser()
      const seen = places.slice(1).flatMap((to, i) => parser.push(all.subarray(places[i], to)))
      expect(seen).toEqual(events)
    }),
  )
})
