import fc from 'fast-check'
import { expect, it } from 'vitest'
import { EventQueue } from './event-queue.js'

it('lets everything happen in the order of its time, and at equal times in the order in which it was said', () => {
  fc.assert(
    fc.property(fc.array(fc.nat({ max: 5 }), { maxLength: 40 }), (times) => {
      const queue = new EventQueue()
      const happened: [number, number][] = []
      times.forEach((atMs, index) => {
        queue.at(atMs, () => {
          happened.push([atMs, index])
          expect(queue.nowMs).toBe(atMs)
        })
      })
      while (queue.runNext()) expect(queue.nowMs).toBeLessThanOrEqual(5)
      expect(happened).toEqual(happened.toSorted(([a, i], [b, j]) => a - b || i - j))
      expect(happened.length).toBe(times.length)
    }),
  )
})

it('takes what is said for now or the past while now happens as the last of now', () => {
  const queue = new EventQueue()
  const happened: string[] = []
  queue.at(10, () => {
    happened.push('first')
    queue.at(3, () => happened.push(`late at ${queue.nowMs}`))
    queue.after(0, () => happened.push('after'))
  })
  queue.at(10, () => happened.push('second'))
  while (queue.runNext());
  expect(happened).toEqual(['first', 'second', 'late at 10', 'after'])
})

it('stops before what comes later than asked for', () => {
  const queue = new EventQueue()
  let happened = 0
  queue.at(5, () => {
    happened += 1
  })
  expect(queue.runNext(4)).toBe(false)
  expect(happened).toBe(0)
  expect(queue.runNext(5)).toBe(true)
  expect(happened).toBe(1)
})

it('refuses what is asked for no time, and the others keep their order', () => {
  const queue = new EventQueue()
  const seenMs: number[] = []
  for (const atMs of [5, 1, Number.NaN, 9, 3, 7]) {
    const plan = () => queue.at(atMs, () => seenMs.push(queue.nowMs))
    if (Number.isNaN(atMs)) expect(plan).toThrow(/no number/)
    else plan()
  }
  while (queue.runNext());
  expect(seenMs).toEqual([1, 3, 5, 7, 9])
})
