import { describe, expect, test } from 'vitest'
import type { StoredSpan } from './stored-span.js'
import { TraceStore, type TraceStoreOptions } from './trace-store.js'

function store(overrides: Partial<TraceStoreOptions> = {}) {
  const time = { nowMs: 0 }
  const kept: StoredSpan[] = []
  const traces = new TraceStore({
    clock: { nowMs: () => time.nowMs, wallMs: () => time.nowMs },
    rootSpanName: 'request',
    requestIdAttribute: 'kvasir.request_id',
    tracesMax: 10,
    bytesMax: 1_000_000,
    sampleRatio: 1,
    slowRequestMs: 100,
    graceMs: 1_500,
    onKept: (spans) => kept.push(...spans),
    ...overrides,
  })
  return { traces, time, kept }
}

let spanCount = 0

function span(fields: Partial<StoredSpan> & { traceId: string }): StoredSpan {
  return {
    spanId: (++spanCount).toString(16).padStart(16, '0'),
    parentSpanId: null,
    name: 'work',
    kind: 'internal',
    service: 'gpu-agent',
    instance: 'gpu-0',
    startUnixNano: '0',
    endUnixNano: '0',
    attributes: {},
    events: [],
    status: { code: 'unset', message: '' },
    ...fields,
  }
}

function root(traceId: string, fields: Partial<StoredSpan> = {}): StoredSpan {
  return span({
    traceId,
    name: 'request',
    service: 'coordinator',
    attributes: { 'kvasir.request_id': `req-${traceId.slice(0, 4)}` },
    ...fields,
  })
}

/** Trace ids whose last digits put them at the beginning and the end of the sampled range. */
const LOW = `aaaa${'0'.repeat(28)}`
const HIGH = `bbbb${'f'.repeat(28)}`

describe('tail sampling', () => {
  test('waits for the grace after the root, then keeps by ratio', () => {
    const { traces, time, kept } = store({ sampleRatio: 0.5 })
    traces.add([root(LOW), root(HIGH)])
    time.nowMs = 1_499
    traces.sweep()
    expect(kept).toHaveLength(0)
    expect(traces.find(HIGH)).toBeDefined()
    time.nowMs = 1_500
    traces.sweep()
    expect(kept.map(({ traceId }) => traceId)).toEqual([LOW])
    expect(traces.find(HIGH)).toBeUndefined()
    expect(traces.stats()).toMatchObject({ traces: 1, tracesKept: 1, tracesSampledOut: 1 })
  })

  test('keeps errors of any process, and slow requests, whatever the ratio', () => {
    const { traces, time, kept } = store({ sampleRatio: 0 })
    const failed = `cccc${'0'.repeat(28)}`
    const slow = `dddd${'0'.repeat(28)}`
    traces.add([
      root(LOW),
      span({ traceId: failed, status: { code: 'error', message: 'lost' } }),
      root(failed),
      root(slow, { endUnixNano: '100000001' }),
    ])
    time.nowMs = 2_000
    traces.sweep()
    expect(new Set(kept.map(({ traceId }) => traceId))).toEqual(new Set([failed, slow]))
  })

  test("a caller's trace of several requests is decided after the last of them", () => {
    const { traces, time, kept } = store({ sampleRatio: 0 })
    const pass = (ms: number) => {
      time.nowMs += ms
      traces.sweep()
    }
    const first = root(LOW, { attributes: { 'kvasir.request_id': 'req-a' } })
    const second = root(LOW, { attributes: { 'kvasir.request_id': 'req-b' }, endUnixNano: '100000001' })
    traces.requestStarted(LOW)
    traces.requestStarted(LOW)
    traces.requestEnded(LOW)
    traces.add([first])
    pass(5_000)
    traces.requestEnded(LOW)
    pass(300)
    traces.add([second])
    pass(1_500)
    expect(kept).toEqual([first, second])
  })

  test("a request in a caller's trace is kept for its error, though one before it was not kept", () => {
    const { traces, time, kept } = store({ sampleRatio: 0 })
    traces.add([root(LOW)])
    time.nowMs = 1_500
    traces.sweep()
    traces.requestStarted(LOW)
    const failed = root(LOW, { status: { code: 'error', message: 'lost' } })
    traces.add([failed])
    traces.requestEnded(LOW)
    time.nowMs = 3_000
    traces.sweep()
    expect(kept).toEqual([failed])
  })

  test('a trace without a root is not decided', () => {
    const { traces, time, kept } = store()
    traces.add([span({ traceId: LOW })])
    time.nowMs = 100_000
    traces.sweep()
    expect(kept).toHaveLength(0)
    expect(traces.find(LOW)).toMatchObject({ complete: false, requestId: '' })
  })

  test('late spans of a kept trace are handed on, those of a dropped one forgotten', () => {
    const { traces, time, kept } = store({ sampleRatio: 0.5 })
    traces.add([root(LOW), root(HIGH)])
    time.nowMs = 1_500
    traces.sweep()
    kept.length = 0
    const late = span({ traceId: LOW })
    traces.add([late, span({ traceId: HIGH })])
    traces.add([late])
    expect(kept).toEqual([late])
    expect(traces.find(HIGH)).toBeUndefined()
  })
})

describe('bounds', () => {
  test('the oldest traces go first when there are too many', () => {
    const { traces } = store({ tracesMax: 2 })
    const ids = ['1', '2', '3'].map((digit) => digit.repeat(32))
    traces.add(ids.map((traceId) => root(traceId)))
    expect(ids.map((id) => traces.find(id) !== undefined)).toEqual([false, true, true])
    expect(traces.find('req-1111')).toBeUndefined()
    expect(traces.stats().tracesEvicted).toBe(1)
  })

  test('bytes are bounded, also within one trace', () => {
    const { traces } = store({ bytesMax: 40_000 })
    for (let i = 0; i < 100; i++) traces.add([span({ traceId: LOW, attributes: { text: 'x'.repeat(300) } })])
    for (let i = 0; i < 100; i++) {
      traces.add([
        span({ traceId: i.toString(16).padStart(32, '0'), attributes: { times: Array(400).fill(i) } }),
      ])
    }
    expect(traces.stats().bytes).toBeLessThanOrEqual(40_000)
    expect(traces.stats().spansDropped).toBeGreaterThan(80)
  })

  test('what is removed gives its bytes back', () => {
    const { traces, time } = store({ sampleRatio: 0 })
    traces.add([root(LOW), span({ traceId: LOW })])
    time.nowMs = 1_500
    traces.sweep()
    expect(traces.stats()).toMatchObject({ traces: 0, bytes: 0 })
  })
})

describe('looking up', () => {
  test('by trace id or request id, spans by start', () => {
    const { traces } = store()
    const parent = root(LOW, { startUnixNano: '900' })
    traces.add([span({ traceId: LOW, parentSpanId: parent.spanId, startUnixNano: '1000' }), parent])
    expect(traces.find('req-aaaa')?.spans.map(({ name }) => name)).toEqual(['request', 'work'])
    expect(traces.find(LOW.toUpperCase())).toEqual(traces.find('req-aaaa'))
    expect(traces.find('req-none')).toBeUndefined()
  })

  test('two requests in one trace of a caller are both found', () => {
    const { traces } = store()
    traces.add([
      root(LOW, { attributes: { 'kvasir.request_id': 'req-a' }, parentSpanId: 'f'.repeat(16) }),
      root(LOW, { attributes: { 'kvasir.request_id': 'req-b' }, parentSpanId: 'f'.repeat(16) }),
    ])
    expect(traces.find('req-b')).toMatchObject({ traceId: LOW, requestId: 'req-b', complete: true })
    expect(traces.recent(5)).toMatchObject([{ requestIds: ['req-a', 'req-b'], spanCount: 2 }])
  })

  test('is complete when the root is there and no parent is missing', () => {
    const { traces } = store()
    const parent = root(LOW)
    const call = span({ traceId: LOW, parentSpanId: parent.spanId })
    traces.add([parent, span({ traceId: LOW, parentSpanId: call.spanId })])
    expect(traces.find(LOW)?.complete).toBe(false)
    traces.add([call])
    expect(traces.find(LOW)?.complete).toBe(true)
  })

  test('newest first in the list', () => {
    const { traces } = store()
    traces.add([root(LOW), root(HIGH, { endUnixNano: '5000000' })])
    expect(traces.recent(1)).toMatchObject([{ traceId: HIGH, durationMs: 5 }])
  })
})

describe('waiting until a trace has settled', () => {
  const real = { nowMs: () => performance.now(), wallMs: () => Date.now() }

  test('returns once it is complete and quiet', async () => {
    const { traces } = store({ clock: real })
    const parent = root(LOW)
    const settled = traces.settled('req-aaaa', 10_000)
    traces.add([span({ traceId: LOW, parentSpanId: parent.spanId })])
    traces.add([parent])
    expect((await settled)?.spans).toHaveLength(2)
  })

  test('gives what there is at the deadline, and when the client has gone', async () => {
    const { traces } = store({ clock: real })
    traces.add([span({ traceId: LOW })])
    expect((await traces.settled(LOW, 20))?.spans).toHaveLength(1)
    expect((await traces.settled(LOW, 10_000, AbortSignal.abort()))?.spans).toHaveLength(1)
    expect(await traces.settled('req-none', 0)).toBeUndefined()
  })
})
