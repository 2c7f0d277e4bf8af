import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { AsyncQueue, deferred, delay, withDeadline, withSignal } from './deferred.js'
import { CancelledError, DeadlineError, InternalError } from './errors.js'

describe('waits', () => {
  test('withDeadline gives the value, the error, or a DeadlineError that says what for', async () => {
    expect(await withDeadline(Promise.resolve(1), 1_000, 'waiting')).toBe(1)
    await expect(withDeadline(Promise.reject(new CancelledError('x')), 1_000, 'waiting')).rejects.toThrow('x')
    const late = deferred<void>()
    const waiting = withDeadline(late.promise, 5, 'waiting for the device')
    await expect(waiting).rejects.toThrow(new DeadlineError('Gave up after 5 ms waiting for the device.'))
    late.reject(new Error('late failures are nobody’s'))
  })

  test('withSignal throws the reason of the signal', async () => {
    const controller = new AbortController()
    const waiting = withSignal(new Promise(() => {}), controller.signal)
    controller.abort(new CancelledError('enough'))
    await expect(waiting).rejects.toThrow('enough')
    await expect(withSignal(Promise.reject(new Error('late')), controller.signal)).rejects.toThrow('enough')
    expect(await withSignal(Promise.resolve(2), undefined)).toBe(2)
  })

  test('delay ends early by its signal', async () => {
    const controller = new AbortController()
    const waiting = delay(60_000, controller.signal)
    controller.abort()
    await waiting
    await delay(60_000, controller.signal)
  })

  test('a deferred that is rejected and never waited for is harmless', async () => {
    const one = deferred<number>()
    expect(one.settled).toBe(false)
    one.reject(new Error('nobody waits'))
    expect(one.settled).toBe(true)
    await delay(0)
  })
})

describe('AsyncQueue', () => {
  test('hands out in order, each once, within its bound', async () => {
    const operations = fc.array(fc.constantFrom('push', 'take'), { maxLength: 3_000 })
    await fc.assert(
      fc.asyncProperty(operations, fc.integer({ min: 1, max: 40 }), async (steps, bound) => {
        const queue = new AsyncQueue<number>(bound)
        const iterator = queue[Symbol.asyncIterator]()
        let pushed = 0
        let taken = 0
        for (const step of steps) {
          if (step === 'push') {
            expect(queue.push(pushed)).toBe(pushed - taken < bound)
            if (queue.length === pushed - taken + 1) pushed += 1
          } else if (queue.length > 0) {
            expect(await iterator.next()).toEqual({ done: false, value: taken })
            taken += 1
          }
          expect(queue.length).toBe(pushed - taken)
        }
        queue.end()
        for (; taken < pushed; taken += 1) expect((await iterator.next()).value).toBe(taken)
        expect(await iterator.next()).toEqual({ done: true, value: undefined })
      }),
      { numRuns: 50 },
    )
  })

  test('keeps order over many items', async () => {
    const queue = new AsyncQueue<number>(10_000)
    for (let i = 0; i < 10_000; i += 1) queue.push(i)
    queue.end()
    let next = 0
    for await (const item of queue) {
      expect(item).toBe(next)
      next += 1
    }
    expect(next).toBe(10_000)
  })

  test('wakes a waiting consumer, and fails after what was queued', async () => {
    const queue = new AsyncQueue<string>(2)
    const seen: string[] = []
    const reading = (async () => {
      for await (const item of queue) seen.push(item)
    })()
    await delay(0)
    expect(queue.push('a')).toBe(true)
    await delay(0)
    expect(queue.push('b')).toBe(true)
    queue.fail(new CancelledError('over'))
    expect(queue.push('c')).toBe(false)
    await expect(reading).rejects.toThrow('over')
    expect(seen).toEqual(['a', 'b'])
  })

  test('closes when its consumer leaves, and has one consumer', async () => {
    const queue = new AsyncQueue<number>(2)
    queue.push(1)
    for await (const _ of queue) break
    expect(queue.closed).toBe(true)
    expect(queue.push(2)).toBe(false)
    await expect(queue[Symbol.asyncIterator]().next()).rejects.toThrow(InternalError)
  })
})
