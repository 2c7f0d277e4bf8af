/** The spans of a device that decodes and one that attends, under the coordinator's call: parents and figures. */
import { writeTestModel } from '@kvasir/engine/testing/test-model'
import { AttentionMethod } from '@kvasir/proto/kvasir/inference/v1/inference'
import { AttendMode } from '@kvasir/proto/kvasir/memory/v1/memory'
import { startSpan, startTelemetry, type TelemetryOptions } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import { context, trace } from '@opentelemetry/api'
import { expect, it } from 'vitest'
import { AttendingDevice } from './testing/attending-devices.js'
import { promptOf, readDecode } from './testing/test-devices.js'

type Exporter = Extract<TelemetryOptions['exporter'], { export: unknown }>
type Exported = Parameters<Exporter['export']>[0]

it('are children of the coordinator’s call, and tell what was read where', async () => {
  const spans: Exported = []
  const exporter: Exporter = {
    export(batch, done) {
      spans.push(...batch)
      done({ code: 0 })
    },
    shutdown: async () => {},
  }
  const telemetry = startTelemetry({ service: 'test', instance: 'test', exporter })
  const model = writeTestModel()
  const decoder = await AttendingDevice.start('gpu-0', model)
  const attendant = await AttendingDevice.start('fpga-0', model)
  const prompt = promptOf(200)
  const offload = await attendant.offload('traced', prompt, AttendMode.PARTIAL)
  const attention = { method: AttentionMethod.PAGE_BOUNDS, budgetTokens: 0, budgetShare: 0.25 }
  const call = startSpan(SPAN.decode, {})
  const story = await context.with(trace.setSpan(context.active(), call), async () =>
    readDecode(await decoder.generate('traced', prompt, { maxTokens: 11, offload, attention })),
  )
  await attendant.empty()
  call.end()
  await Promise.all([decoder.stop(), attendant.stop()])
  await telemetry.close()

  const spanOf = (name: string) => {
    const [span, ...others] = spans.filter((own) => own.name === name)
    expect(others, name).toEqual([])
    expect(span?.parentSpanContext?.spanId, name).toBe(call.spanContext().spanId)
    return span?.attributes ?? {}
  }
  const { layers, kvHeads, blockLayerBytes } = attendant.model
  const attended = spanOf(SPAN.attendRun)
  expect(attended).toMatchObject({
    [ATTRIBUTE.requestId]: 'traced',
    [ATTRIBUTE.deviceId]: 'fpga-0',
    // 12 pages in each of 10 steps, for each KV head of each layer.
    [ATTRIBUTE.attentionPages]: 12 * 10 * layers * kvHeads,
    [ATTRIBUTE.tierNames]: ['hbm'],
  })
  const pagesRead = Number(attended[ATTRIBUTE.attentionPagesRead])
  expect(pagesRead).toBeGreaterThan(0)
  const [readBytes] = attended[ATTRIBUTE.tierReadBytes] as number[]
  expect(readBytes).toBeCloseTo((pagesRead * blockLayerBytes) / kvHeads, -2)

  expect(spanOf(SPAN.decodeRun)).toMatchObject({
    [ATTRIBUTE.attentionMethod]: 'page-bounds',
    [ATTRIBUTE.attentionBudget]: '25%',
    [ATTRIBUTE.attendDevice]: 'fpga-0',
    [ATTRIBUTE.attentionPagesRead]: Number(story.finished?.attention?.pagesRead),
  })
  // K and V of 12 pages, and their bounds.
  expect(spanOf(SPAN.kvSend)[ATTRIBUTE.kvBytes]).toBe(12 * layers * blockLayerBytes * (1 + 1 / 16))
})
