/**
 * Hands the coordinator's own finished spans to the trace store, inside the process.
 */

import type { Attributes, HrTime } from '@opentelemetry/api'
import { SpanStatusCode } from '@opentelemetry/api'
import { type ExportResult, ExportResultCode } from '@opentelemetry/core'
import type { ReadableSpan, SpanExporter } from '@opentelemetry/sdk-trace-base'
import { type AttributeValue, SPAN_KINDS, type StoredSpan } from './stored-span.js'

export function createStoreExporter(add: (spans: readonly StoredSpan[]) => void): SpanExporter {
  return {
    export(spans: ReadableSpan[], done: (result: ExportResult) => void) {
      add(spans.map(toStoredSpan))
      done({ code: ExportResultCode.SUCCESS })
    },
    async shutdown() {},
  }
}

function toStoredSpan(span: ReadableSpan): StoredSpan {
  const { traceId, spanId } = span.spanContext()
  return {
    traceId,
    spanId,
    parentSpanId: span.parentSpanContext?.spanId ?? null,
    name: span.name,
    kind: SPAN_KINDS[span.kind] ?? 'internal',
    service: String(span.resource.attributes['service.name'] ?? 'unknown'),
    instance: String(span.resource.attributes['service.instance.id'] ?? ''),
    startUnixNano: toUnixNano(span.startTime),
    endUnixNano: toUnixNano(span.endTime),
    attributes: plainAttributes(span.attributes),
    events: span.events.map((event) => ({
      name: event.name,
      timeUnixNano: toUnixNano(event.time),
      attributes: plainAttributes(event.attributes),
    })),
    status: {
      code:
        span.status.code === SpanStatusCode.ERROR
          ? 'error'
          : span.status.code === SpanStatusCode.OK
            ? 'ok'
            : 'unset',
      message: span.status.message ?? '',
    },
  }
}

function toUnixNano([seconds, nanos]: HrTime): string {
  return (BigInt(seconds) * 1_000_000_000n + BigInt(Math.round(nanos))).toString()
}

function plainAttributes(attributes: Attributes | undefined): Record<string, AttributeValue> {
  const plain: Record<string, AttributeValue> = {}
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === undefined) continue
    plain[key] = Array.isArray(value) ? value.filter((item) => item !== null && item !== undefined) : value
  }
  return plain
}
