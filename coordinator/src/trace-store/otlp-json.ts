/**
 * OTLP/HTTP JSON traces, read and written.
 *
 * Reading is lenient as the protocol asks (unknown fields are ignored, 64-bit numbers may
 * be strings or numbers) and rejects span by span: one bad span does not lose its batch.
 */
import { InvalidInputError } from '@kvasir/runtime/errors'
import { z } from 'zod'
import { type AttributeValue, SPAN_KINDS, type SpanEvent, type StoredSpan } from './stored-span.js'

const nanos = z.union([z.string().regex(/^\d{1,20}$/), z.number().int().nonnegative()]).transform(String)

const attributeList = z.array(z.looseObject({ key: z.string(), value: z.unknown() })).optional()

const spanSchema = z.looseObject({
  traceId: z.string().regex(/^[0-9a-fA-F]{32}$/, 'traceId must be 32 hexadecimal digits'),
  spanId: z.string().regex(/^[0-9a-fA-F]{16}$/, 'spanId must be 16 hexadecimal digits'),
  parentSpanId: z
    .string()
    .regex(/^([0-9a-fA-F]{16})?$/, 'parentSpanId must be 16 hexadecimal digits')
    .nullish(),
  name: z.string().default(''),
  kind: z.number().int().optional(),
  startTimeUnixNano: nanos,
  endTimeUnixNano: nanos,
  attributes: attributeList,
  events: z
    .array(
      z.looseObject({
        name: z.string().default(''),
        timeUnixNano: nanos.optional(),
        attributes: attributeList,
      }),
    )
    .optional(),
  status: z.looseObject({ code: z.number().optional(), message: z.string().optional() }).nullish(),
})

const exportSchema = z.looseObject({
  resourceSpans: z
    .array(
      z.looseObject({
        resource: z.looseObject({ attributes: attributeList }).nullish(),
        scopeSpans: z.array(z.looseObject({ spans: z.array(z.unknown()).optional() })).optional(),
      }),
    )
    .optional(),
})

export interface ParsedExport {
  readonly spans: readonly StoredSpan[]
  readonly rejected: number
  /** Why the first rejected span was rejected; empty where none was. */
  readonly firstError: string
}

/** An ExportTraceServiceRequest in JSON. Throws InvalidInputError where it is not one at all. */
export function parseOtlpJson(body: unknown): ParsedExport {
  const parsed = exportSchema.safeParse(body)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw new InvalidInputError(
      `The body is not an OTLP trace export in JSON: ${issue?.message} at ${issue?.path.join('.') || 'the top'}.`,
    )
  }
  const spans: StoredSpan[] = []
  let rejected = 0
  let firstError = ''
  for (const resourceSpans of parsed.data.resourceSpans ?? []) {
    const resource = readAttributes(resourceSpans.resource?.attributes)
    const service = String(resource['service.name'] ?? 'unknown')
    const instance = String(resource['service.instance.id'] ?? '')
    for (const scopeSpans of resourceSpans.scopeSpans ?? []) {
      for (const candidate of scopeSpans.spans ?? []) {
        const span = spanSchema.safeParse(candidate)
        if (span.success) {
          spans.push(readSpan(span.data, service, instance))
        } else {
          rejected++
          firstError ||= span.error.issues[0]?.message ?? 'malformed span'
        }
      }
    }
  }
  return { spans, rejected, firstError }
}

function readSpan(span: z.infer<typeof spanSchema>, service: string, instance: string): StoredSpan {
  return {
    traceId: span.traceId.toLowerCase(),
    spanId: span.spanId.toLowerCase(),
    parentSpanId: span.parentSpanId ? span.parentSpanId.toLowerCase() : null,
    name: span.name,
    kind: SPAN_KINDS[(span.kind ?? 1) - 1] ?? 'internal',
    service,
    instance,
    startUnixNano: span.startTimeUnixNano,
    endUnixNano: span.endTimeUnixNano,
    attributes: readAttributes(span.attributes),
    events: (span.events ?? []).map(
      (event): SpanEvent => ({
        name: event.name,
        timeUnixNano: event.timeUnixNano ?? '0',
        attributes: readAttributes(event.attributes),
      }),
    ),
    status: {
      code: span.status?.code === 2 ? 'error' : span.status?.code === 1 ? 'ok' : 'unset',
      message: span.status?.message ?? '',
    },
  }
}

function readAttributes(list: z.infer<typeof attributeList>): Record<string, AttributeValue> {
  const attributes: Record<string, AttributeValue> = {}
  for (const { key, value } of list ?? []) attributes[key] = readValue(value)
  return attributes
}

function readValue(value: unknown): AttributeValue {
  if (typeof value !== 'object' || value === null) return String(value)
  if ('stringValue' in value && typeof value.stringValue === 'string') return value.stringValue
  if ('boolValue' in value && typeof value.boolValue === 'boolean') return value.boolValue
  if ('doubleValue' in value) return Number(value.doubleValue)
  if ('intValue' in value) {
    const number = Number(value.intValue)
    return Number.isSafeInteger(number) ? number : String(value.intValue)
  }
  if ('arrayValue' in value && typeof value.arrayValue === 'object' && value.arrayValue !== null) {
    const items = 'values' in value.arrayValue ? value.arrayValue.values : []
    return (Array.isArray(items) ? items : []).map((item) => {
      const scalar = readValue(item)
      return typeof scalar === 'object' ? JSON.stringify(scalar) : scalar
    })
  }
  return JSON.stringify(value)
}

/** An ExportTraceServiceRequest in JSON, grouped by process. */
export function toOtlpJson(spans: readonly StoredSpan[]): object {
  const groups = new Map<string, StoredSpan[]>()
  for (const span of spans) {
    const process = JSON.stringify([span.service, span.instance])
    const group = groups.get(process)
    if (group) group.push(span)
    else groups.set(process, [span])
  }
  return { resourceSpans: [...groups.values()].map(writeGroup) }
}

function writeGroup(spans: readonly StoredSpan[]): object {
  const resource: Record<string, AttributeValue> = {}
  if (spans[0]) resource['service.name'] = spans[0].service
  if (spans[0]?.instance) resource['service.instance.id'] = spans[0].instance
  return {
    resource: { attributes: writeAttributes(resource) },
    scopeSpans: [{ scope: { name: 'kvasir' }, spans: spans.map(writeSpan) }],
  }
}

function writeSpan(span: StoredSpan): object {
  return {
    traceId: span.traceId,
    spanId: span.spanId,
    ...(span.parentSpanId === null ? {} : { parentSpanId: span.parentSpanId }),
    name: span.name,
    kind: SPAN_KINDS.indexOf(span.kind) + 1,
    startTimeUnixNano: span.startUnixNano,
    endTimeUnixNano: span.endUnixNano,
    attributes: writeAttributes(span.attributes),
    events: span.events.map((event) => ({
      name: event.name,
      timeUnixNano: event.timeUnixNano,
      attributes: writeAttributes(event.attributes),
    })),
    status: {
      code: { unset: 0, ok: 1, error: 2 }[span.status.code],
      ...(span.status.message === '' ? {} : { message: span.status.message }),
    },
  }
}

function writeAttributes(attributes: Readonly<Record<string, AttributeValue>>): object[] {
  return Object.entries(attributes).map(([key, value]) => ({ key, value: writeValue(value) }))
}

function writeValue(value: AttributeValue): object {
  if (typeof value === 'string') return { stringValue: value }
  if (typeof value === 'boolean') return { boolValue: value }
  if (typeof value === 'number') {
    return Number.isSafeInteger(value) ? { intValue: String(value) } : { doubleValue: value }
  }
  return { arrayValue: { values: value.map(writeValue) } }
}
