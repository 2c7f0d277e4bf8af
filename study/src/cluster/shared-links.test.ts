import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { EventQueue } from './event-queue.js'
import { type Flow, SharedLink, SharedLinks } from './shared-links.js'

/** Plays to the end and tells when each transfer was over. */
function play(
  start: (links: SharedLinks, queue: EventQueue, over: (name: string) => () => void) => void,
): Record<string, number> {
  const queue = new EventQueue()
  const links = new SharedLinks(queue)
  const overMs: Record<string, number> = {}
  start(links, queue, (name) => () => {
    overMs[name] = queue.nowMs
  })
  while (queue.runNext());
  return overMs
}

describe('transfers on one link', () => {
  it('one alone takes its bytes at the link rate', () => {
    const overMs = play((links, _queue, over) => {
      links.close(links.open([new SharedLink('a', 100)], over('one')), 1_000)
    })
    expect(overMs.one).toBeCloseTo(10)
  })

  it('two share it evenly, and what one leaves the other gets', () => {
    const overMs = play((links, _queue, over) => {
      const link = new SharedLink('a', 100)
      links.close(links.open([link], over('short')), 500)
      links.close(links.open([link], over('long')), 1_500)
    })
    // 50 each until the short one is over after 10 ms; then 100 for the 1,000 that are left.
    expect(overMs.short).toBeCloseTo(10)
    expect(overMs.long).toBeCloseTo(20)
  })

  it('one that is computed more slowly than it could be sent leaves the rest to the other', () => {
    const overMs = play((links, queue, over) => {
      const link = new SharedLink('a', 100)
      const computed = links.open([link], over('computed'))
      links.supply(computed, 0, 20)
      queue.at(10, () => links.close(computed))
      links.close(links.open([link], over('bulk')), 1_200)
    })
    expect(overMs.computed).toBeCloseTo(10)
    // 80 a millisecond for 10 ms, then 100.
    expect(overMs.bulk).toBeCloseTo(14)
  })

  it('a transfer that is held back by another link leaves its share', () => {
    const overMs = play((links, _queue, over) => {
      const shared = new SharedLink('shared', 100)
      links.close(links.open([shared, new SharedLink('slow', 10)], over('slow')), 100)
      links.close(links.open([shared], over('fast')), 900)
    })
    expect(overMs.slow).toBeCloseTo(10)
    expect(overMs.fast).toBeCloseTo(10)
  })

  it.each([0, 1e7, 1e10, 1e13])('end, however late it is: %d ms', (beginMs) => {
    const overMs = play((links, queue, over) => {
      const [a, b] = [new SharedLink('a', 12.1e6), new SharedLink('b', 3.3e9)]
      queue.at(beginMs, () => {
        for (let index = 0; index < 20; index += 1) {
          const flow = links.open(index % 3 === 0 ? [a, b] : [b], over(`flow ${index}`))
          links.supply(flow, index * 0.7, 1e6 / (index + 3))
          queue.after(index * 0.1, () => links.close(flow, 0.01 * index))
        }
      })
    })
    expect(Object.keys(overMs).length).toBe(20)
  })

  it('a link that carries nothing keeps who has something to send busy, and nobody else', () => {
    const flows: Flow[] = []
    const overMs = play((links, queue, over) => {
      const link = new SharedLink('a', 0)
      flows.push(links.open([link], over('waits')), links.open([link], over('idle')))
      links.close(flows[0] as Flow, 100)
      queue.at(10, () => links.changed(link, 50))
      queue.at(20, () => links.close(flows[1] as Flow))
    })
    expect(overMs.waits).toBeCloseTo(12)
    expect(flows.map(({ sentBytes }) => Math.round(sentBytes))).toEqual([100, 0])
    expect(flows[0]?.busyMs).toBeCloseTo(12)
    expect(flows[1]?.busyMs).toBe(0)
  })

  it('a link that becomes slower makes what is left later', () => {
    const overMs = play((links, queue, over) => {
      const link = new SharedLink('a', 100)
      links.close(links.open([link], over('one')), 1_000)
      queue.at(5, () => links.changed(link, 10))
    })
    expect(overMs.one).toBeCloseTo(55)
  })
})

it('never gives more than a link has, wastes nothing that somebody could use, and sends every byte once', () => {
  const transfer = fc.record({
    startMs: fc.integer({ min: 0, max: 50 }),
    bytes: fc.integer({ min: 1, max: 5_000 }),
    path: fc.uniqueArray(fc.nat({ max: 3 }), { minLength: 1, maxLength: 3 }),
  })
  fc.assert(
    fc.property(fc.array(transfer, { minLength: 1, maxLength: 12 }), (transfers) => {
      const queue = new EventQueue()
      const shared = new SharedLinks(queue)
      const links = [100, 50, 20, 80].map((rate, index) => new SharedLink(`link ${index}`, rate))
      const flows: Flow[] = []
      const wanted: number[] = []
      let over = 0
      for (const { startMs, bytes, path } of transfers) {
        queue.at(startMs, () => {
          wanted.push(bytes)
          const of = path.flatMap((index) => links[index] ?? [])
          const flow = shared.open(of, () => {
            over += 1
          })
          flows.push(flow)
          shared.close(flow, bytes)
        })
      }
      while (queue.runNext()) {
        const active = flows.filter((flow) => !flow.isOver)
        for (const link of links) {
          const used = active
            .filter(({ path }) => path.includes(link))
            .reduce((sum, { rateBytesPerMs }) => sum + rateBytesPerMs, 0)
          expect(used).toBeLessThanOrEqual(link.bytesPerMs * (1 + 1e-9))
        }
        // Each is held back by a link that is full and on which nobody gets more.
        for (const flow of active) {
          const isHeldBack = flow.path.some((link) => {
            const on = active.filter(({ path }) => path.includes(link))
            const used = on.reduce((sum, { rateBytesPerMs }) => sum + rateBytesPerMs, 0)
            const most = Math.max(...on.map(({ rateBytesPerMs }) => rateBytesPerMs))
            return used >= link.bytesPerMs * (1 - 1e-9) && flow.rateBytesPerMs >= most * (1 - 1e-9)
          })
          expect(isHeldBack).toBe(true)
        }
      }
      expect(over).toBe(transfers.length)
      flows.forEach((flow, index) => {
        expect(flow.sentBytes).toBeCloseTo(wanted[index] ?? 0, 1)
      })
    }),
  )
})
