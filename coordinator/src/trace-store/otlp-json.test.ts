import { describe, expect, test } from 'vitest'
import { parseOtlpJson, toOtlpJson } from './otlp-json.js'
import type { StoredSpan } from './stored-span.js'

const SPAN: StoredSpan = {
  traceId: 'a'.repeat(32),
  spanId: 'b'.repeat(16),
  parentSpanId: 'c'.repeat(16),
  name: 'kv.send',
  kind: 'client',
  service: 'gpu-agent',
  instance: 'gpu-0',
  startUnixNano: '1700000000000000001',
  endUnixNano: '1700000000000000002',
  attributes: {
    bytes: 5,
    overlap: 0.5,
    device: 'gpu-0',
    changed: false,
    sent: [1, 2.5, 3],
    huge: '9223372036854775807',
  },
  events: [
    { name: 'exception', timeUnixNano: '1700000000000000002', attributes: { 'exception.message': 'lost' } },
  ],
  status: { code: 'error', message: 'lost' },
}

describe('OTLP JSON', () => {
  test('what is written reads back the same', () => {
    const other = {
      ...SPAN,
      spanId: 'd'.repeat(16),
      parentSpanId: null,
      instance: '',
      kind: 'server' as const,
    }
    expect(parseOtlpJson(JSON.parse(JSON.stringify(toOtlpJson([SPAN, other]))))).toEqual({
      spans: [SPAN, other],
      rejected: 0,
      firstError: '',
    })
  })

  test('takes numbers for 64-bit fields, capital digits, unknown fields and missing ones', () => {
    const { spans } = parseOtlpJson({
      unknown: 1,
      resourceSpans: [
        {
          scopeSpans: [
            {
              spans: [
                {
                  traceId: 'A'.repeat(32),
                  spanId: 'B'.repeat(16),
                  parentSpanId: '',
                  name: 'x',
                  startTimeUnixNano: 5,
                  endTimeUnixNano: '6',
                  flags: 257,
                  attributes: [
                    { key: 'int', value: { intValue: '9223372036854775807' } },
                    { key: 'map', value: { kvlistValue: { values: [] } } },
                    { key: 'none', value: {} },
                  ],
                },
              ],
            },
          ],
        },
      ],
    })
    expect(spans).toEqual([
      {
        ...SPAN,
        parentSpanId: null,
        name: 'x',
        kind: 'internal',
        service: 'unknown',
        instance: '',
        startUnixNano: '5',
        endUnixNano: '6',
        attributes: { int: '9223372036854775807', map: '{"kvlistValue":{"values":[]}}', none: '{}' },
        events: [],
        status: { code: 'unset', message: '' },
      },
    ])
  })

  test('one bad span does not lose the others; what is no export is refused', () => {
    const body = JSON.parse(JSON.stringify(toOtlpJson([SPAN])))
    body.resourceSpans[0].scopeSpans[0].spans.push(
      { ...body.resourceSpans[0].scopeSpans[0].spans[0], spanId: 'short' },
      7,
    )
    const parsed = parseOtlpJson(body)
    expect(parsed.spans).toHaveLength(1)
    expect(parsed).toMatchObject({ rejected: 2, firstError: 'spanId must be 16 hexadecimal digits' })
    expect(() => parseOtlpJson({ resourceSpans: 'x' })).toThrow(/not an OTLP trace export/)
    expect(parseOtlpJson({}).spans).toEqual([])
  })
})
