import { type Deferred, deferred } from '@kvasir/runtime/deferred'
import { describe, expect, it } from 'vitest'
import { WorkerQueue } from './worker-queue.js'

function queueOf(slow: ReadonlyMap<string, Deferred<void>>) {
  const begun: string[] = []
  const queue = new WorkerQueue<string>((item) => {
    begun.push(item)
    return slow.get(item)?.promise
  })
  return { queue, begun }
}

describe('the queue of calls', () => {
  it('serves at once what can be, before push returns', () => {
    const { queue, begun } = queueOf(new Map())
    queue.push('a')
    queue.push('b')
    expect(begun).toEqual(['a', 'b'])
    expect(queue.isEmpty).toBe(true)
  })

  it('begins nothing before what came earlier is served', async () => {
    const slow = new Map([['kernel', deferred<void>()]])
    const { queue, begun } = queueOf(slow)
    for (const item of ['read', 'kernel', 'write', 'copy']) queue.push(item)
    expect(begun).toEqual(['read', 'kernel'])
    expect(queue.isEmpty).toBe(false)
    const caughtUp = queue.caughtUp()
    slow.get('kernel')?.resolve()
    await caughtUp
    expect(begun).toEqual(['read', 'kernel', 'write', 'copy'])
    expect(queue.isEmpty).toBe(true)
  })

  it('lets a step go on when what had come is served, though more comes', async () => {
    const slow = new Map([
      ['first', deferred<void>()],
      ['second', deferred<void>()],
    ])
    const { queue, begun } = queueOf(slow)
    queue.push('first')
    const caughtUp = queue.caughtUp()
    queue.push('second')
    slow.get('first')?.resolve()
    await caughtUp
    expect(begun).toEqual(['first', 'second'])
    expect(queue.isEmpty).toBe(false)
  })
})
