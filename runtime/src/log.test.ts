import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { InMemorySpanExporter } from '@opentelemetry/sdk-trace-base'
import { afterAll, afterEach, expect, test, vi } from 'vitest'
import { createLogger } from './log.js'
import { startTelemetry, withSpan } from './telemetry.js'
import { SPAN } from './telemetry-names.js'

const folder = mkdtempSync(join(tmpdir(), 'kvasir-log-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
afterEach(() => vi.restoreAllMocks())

function lines(file: string): Record<string, unknown>[] {
  return readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
}

test('lines are JSON in the file at once, with the ids of the trace around them', async () => {
  const file = join(folder, 'new', 'agent.jsonl')
  const log = createLogger({ service: 'gpu-agent', file, terminal: false })
  const telemetry = startTelemetry({
    service: 'gpu-agent',
    instance: 'gpu-0',
    exporter: new InMemorySpanExporter(),
  })
  log.info({ deviceId: 'gpu-0' }, 'ready')
  const spanContext = await withSpan(SPAN.prefillRun, {}, async (span) => {
    await Promise.resolve()
    log.warn({ err: new Error('a cause') }, 'slow')
    return span.spanContext()
  })
  log.debug('not kept')
  await telemetry.close()

  const [first, second, third] = lines(file)
  expect(first).toMatchObject({ service: 'gpu-agent', pid: process.pid, deviceId: 'gpu-0', msg: 'ready' })
  expect(first).not.toHaveProperty('trace_id')
  expect(second).toMatchObject({
    trace_id: spanContext.traceId,
    span_id: spanContext.spanId,
    err: { message: 'a cause' },
  })
  expect(third).toBeUndefined()
})

test('a terminal gets one readable line each', () => {
  const written: string[] = []
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    written.push(String(text))
    return true
  })
  const log = createLogger({ service: 'coordinator', terminal: true })
  log.info({ port: 8080 }, 'listening')
  expect(written).toHaveLength(1)
  expect(written[0]).toMatch(/^\[\d\d:\d\d:\d\d\.\d{3}\] INFO: \[coordinator\] listening \{"port":8080\}\n$/)
})

test('a file that cannot be written loses lines, not the process', () => {
  const log = createLogger({ service: 'agent', file: '/dev/full', terminal: false })
  for (let i = 0; i < 3; i += 1) log.info('lost')
})
