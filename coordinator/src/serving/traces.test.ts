/**
 * The spans of a request: all children of the request's own, all ended, also when a
 * device is lost; devices see the same trace.
 */
import { activeTraceId, startTelemetry, withSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import { startNatsServer } from '@kvasir/runtime/testing/nats-server'
import { SpanStatusCode } from '@opentelemetry/api'
import type { ReadableSpan } from '@opentelemetry/sdk-trace-base'
import { afterAll, expect, test } from 'vitest'
import { fakeTokens } from './testing/fake-device.js'
import {
  gather,
  startDefaultDevices,
  startTestCluster,
  testRequest,
  untilIdle,
} from './testing/test-cluster.js'

const spans: ReadableSpan[] = []
const telemetry = startTelemetry({
  service: 'coordinator',
  instance: 'coordinator-test',
  exporter: {
    export(batch, done) {
      spans.push(...batch)
      done({ code: 0 })
    },
    shutdown: async () => {},
  },
})
const nats = await startNatsServer()
const cluster = await startTestCluster(nats)
afterAll(async () => {
  await cluster.close()
  await nats.close()
})

test('a moved request has one tree, with a span for every call and no open end', async () => {
  const { gpu, fpgas } = await startDefaultDevices(cluster)
  const seen = new Set<string | undefined>()
  for (const device of [gpu, ...fpgas]) {
    device.stepMs = 5
    device.onDecode = () => {
      seen.add(activeTraceId())
    }
  }
  const request = testRequest({ maxTokens: 30 })
  const traceId = await withSpan(SPAN.request, {}, async () => {
    const gathered = await gather(cluster.serving.submit(request), (count) => {
      if (count === 5) void fpgas[0]?.kill()
    })
    expect(gathered.ids).toEqual(fakeTokens([1, 2, 3, 4, 5], 30))
    return activeTraceId()
  })
  await untilIdle(gpu, ...fpgas)
  await telemetry.close()

  expect(cluster.serving.request(traceId ?? '')?.requestId).toBe(request.requestId)
  expect([...seen]).toEqual([traceId])
  const root = spans.find(({ name }) => name === SPAN.request)
  expect(root?.events.map(({ name }) => name)).toEqual(['placed again'])
  const children = spans.filter((span) => span !== root)
  for (const span of children) {
    expect(span.parentSpanContext?.spanId).toBe(root?.spanContext().spanId)
    expect(span.spanContext().traceId).toBe(traceId)
  }
  const named = (name: string): ReadableSpan[] => children.filter((span) => span.name === name)
  for (const name of [SPAN.place, SPAN.reserve, SPAN.prefill, SPAN.decode])
    expect(named(name)).toHaveLength(2)
  expect(children).toHaveLength(8)
  expect(named(SPAN.decode).map(({ status }) => status.code)).toEqual([
    SpanStatusCode.ERROR,
    SpanStatusCode.UNSET,
  ])
  expect(named(SPAN.place).map(({ attributes }) => attributes[ATTRIBUTE.decodeDevice])).toEqual([
    'fpga-0',
    'fpga-1',
  ])
  expect(named(SPAN.prefill)[0]?.attributes[ATTRIBUTE.kvOverlap]).toBeCloseTo(0.9)
})
