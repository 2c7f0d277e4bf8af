/** The spans of two agents under one request: names, parents and what they measure. */
import { recordError, startSpan, startTelemetry, type TelemetryOptions } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import { context, type Span, trace } from '@opentelemetry/api'
import { expect, it } from 'vitest'
import { promptOf, readDecode, readPrefill, TestDevice } from './testing/test-devices.js'

type Exporter = Extract<TelemetryOptions['exporter'], { export: unknown }>
type Exported = Parameters<Exporter['export']>[0]

it('are children of the calls, never of each other, and tell of the transfer', async () => {
  const spans: Exported = []
  const exporter: Exporter = {
    export(batch, done) {
      spans.push(...batch)
      done({ code: 0 })
    },
    shutdown: async () => {},
  }
  const telemetry = startTelemetry({ service: 'test', instance: 'test', exporter })
  // A slow link and slow layers: the transfer is seen to run beside the prefill.
  const gpu = await TestDevice.start({
    deviceId: 'gpu-0',
    linkBytesPerSecond: 400_000,
    fake: { layers: 8, beforeLayer: () => new Promise((resolve) => setTimeout(resolve, 20)) },
  })
  const fpga = await TestDevice.start({ deviceId: 'fpga-0', fake: { layers: 8 } })
  const under = <T>(span: Span, call: () => T): T => context.with(trace.setSpan(context.active(), span), call)

  const prompt = promptOf(250)
  const lease = await fpga.reserve('traced', 300)
  const prefillCall = startSpan(SPAN.prefill, {})
  const decodeCall = startSpan(SPAN.decode, {})
  const prefill = under(prefillCall, () => readPrefill(gpu.prefill('traced', prompt)))
  const decode = under(decodeCall, () =>
    readDecode(fpga.decode('traced', lease, prompt, { maxTokens: 5, from: gpu.source })),
  )
  await Promise.all([prefill, decode])
  const failed = await under(decodeCall, () =>
    readDecode(fpga.decode('traced', lease, prompt, { maxTokens: 5 })).catch((error: unknown) => error),
  )
  expect(failed).toMatchObject({ code: 'lease_expired' })
  const other = await TestDevice.start({ deviceId: 'fpga-1', fake: { layers: 8 } })
  const { id: deviceId, endpoint } = gpu.source
  const prefix = { tokens: 240, deviceId, endpoint, tier: 'hbm' }
  const fetching = await other.reserve('fetched', 300)
  await under(decodeCall, () =>
    readDecode(other.decode('fetched', fetching, prompt, { maxTokens: 5, prefix })),
  )
  prefillCall.end()
  recordError(decodeCall, failed)
  decodeCall.end()
  await Promise.all([gpu.stop(), fpga.stop(), other.stop()])
  await telemetry.close()

  const named = (name: string) => {
    const found = spans.filter((span) => span.name === name)
    expect(found.length, name).toBeGreaterThan(0)
    return found
  }
  const parents = (name: string) => named(name).map((span) => span.parentSpanContext?.spanId)
  expect(parents(SPAN.prefillRun)).toContain(prefillCall.spanContext().spanId)
  expect(parents(SPAN.kvSend)).toEqual([prefillCall.spanContext().spanId])
  expect(parents(SPAN.kvReceive)).toEqual([decodeCall.spanContext().spanId])
  expect(parents(SPAN.decodeRun)).toContain(decodeCall.spanContext().spanId)

  const [run] = named(SPAN.prefillRun)
  expect(run?.attributes[ATTRIBUTE.prefillLayerUs]).toHaveLength(8)
  expect(run?.attributes).toMatchObject({
    [ATTRIBUTE.requestId]: 'traced',
    [ATTRIBUTE.epoch]: 1,
    [ATTRIBUTE.deviceId]: 'gpu-0',
  })
  const [sent] = named(SPAN.kvSend)
  const chunks = Number(sent?.attributes[ATTRIBUTE.kvChunks])
  // 16 blocks of 256 bytes in each of 8 layers.
  expect(sent?.attributes[ATTRIBUTE.kvBytes]).toBe(32_768)
  expect(sent?.attributes[ATTRIBUTE.kvChunkSentUs]).toHaveLength(chunks)
  expect(sent?.attributes[ATTRIBUTE.kvChunkAckedUs]).toHaveLength(chunks)
  expect(Number(sent?.attributes[ATTRIBUTE.kvBusyUs])).toBeGreaterThan(70_000)
  expect(Number(sent?.attributes[ATTRIBUTE.kvOverlap])).toBeGreaterThan(0.5)
  const [fetched] = named(SPAN.kvFetch)
  expect(fetched?.parentSpanContext?.spanId).toBe(decodeCall.spanContext().spanId)
  // 15 of the 16 blocks in each of 8 layers.
  expect(fetched?.attributes).toMatchObject({
    [ATTRIBUTE.fetchedFrom]: 'gpu-0',
    [ATTRIBUTE.cachedTokens]: 0,
    [ATTRIBUTE.fetchedTokens]: 240,
    [ATTRIBUTE.kvBytes]: 30_720,
  })
  const [decoded] = named(SPAN.decodeRun)
  expect(decoded?.attributes[ATTRIBUTE.decodeTokenUs]).toHaveLength(4)
})
