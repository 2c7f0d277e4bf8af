/**
 * A finished span as the trace store keeps it and as `GET /v1/traces/{id}` shows it.
 *
 * Times stay decimal strings of nanoseconds: they do not fit a JSON number. Attribute
 * values are what JSON can say; what OTLP can say beyond that (bytes, maps) is kept as
 * JSON text.
 */
type Scalar = string | number | boolean

export type AttributeValue = Scalar | readonly Scalar[]

export interface SpanEvent {
  readonly name: string
  readonly timeUnixNano: string
  readonly attributes: Readonly<Record<string, AttributeValue>>
}

export type SpanKindName = 'internal' | 'server' | 'client' | 'producer' | 'consumer'

/** In the order of OTLP's numbers, which count from 1. */
export const SPAN_KINDS: readonly SpanKindName[] = ['internal', 'server', 'client', 'producer', 'consumer']

export interface StoredSpan {
  /** 32 hexadecimal digits. */
  readonly traceId: string
  /** 16 hexadecimal digits. */
  readonly spanId: string
  /** Null at the top of a trace. */
  readonly parentSpanId: string | null
  readonly name: string
  readonly kind: SpanKindName
  /** `service.name` of the process it ran in. */
  readonly service: string
  /** `service.instance.id` of the process: a device id for agents. */
  readonly instance: string
  readonly startUnixNano: string
  readonly endUnixNano: string
  readonly attributes: Readonly<Record<string, AttributeValue>>
  readonly events: readonly SpanEvent[]
  readonly status: { readonly code: 'unset' | 'ok' | 'error'; readonly message: string }
}

export function durationMs(span: Pick<StoredSpan, 'startUnixNano' | 'endUnixNano'>): number {
  return Number(BigInt(span.endUnixNano) - BigInt(span.startUnixNano)) / 1e6
}

/** Roughly what a span occupies in memory, so that the store can be bounded in bytes. */
export function spanBytes(span: StoredSpan): number {
  let bytes = 400 + 2 * span.name.length + 2 * span.status.message.length
  bytes += attributesBytes(span.attributes)
  for (const event of span.events) bytes += 120 + 2 * event.name.length + attributesBytes(event.attributes)
  return bytes
}

function attributesBytes(attributes: Readonly<Record<string, AttributeValue>>): number {
  let bytes = 0
  for (const [key, value] of Object.entries(attributes)) {
    bytes += 32 + 2 * key.length
    if (typeof value === 'object') {
      for (const item of value) bytes += scalarBytes(item)
    } else {
      bytes += scalarBytes(value)
    }
  }
  return bytes
}

function scalarBytes(value: Scalar): number {
  return typeof value === 'string' ? 16 + 2 * value.length : 8
}
