/**
 * Sends finished spans as OTLP over HTTP (JSON) to a receiver whose address may become
 * known later, change, or be dead.
 *
 * Invariants:
 * X1 Never throws, never blocks: at most PENDING_SPANS_MAX spans wait, the oldest are lost first.
 * X2 One request at a time, each with a deadline; a batch that fails waits for the next try.
 * X3 `shutdown` sends what it can within SHUTDOWN_MS and gives the rest up.
 */
import { type ExportResult, ExportResultCode } from '@opentelemetry/core'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import type { ReadableSpan, SpanExporter } from '@opentelemetry/sdk-trace-base'
import { delay } from './deferred.js'

/** Spans kept while no receiver answers; about 8 MB at most. */
const PENDING_SPANS_MAX = 4_096
const BATCH_SPANS_MAX = 512
const SEND_DEADLINE_MS = 2_000
const RETRY_MS = 250
const SHUTDOWN_MS = 1_000

export class OtlpExporter implements SpanExporter {
  private pending: ReadableSpan[] = []
  private target: { readonly url: string; readonly exporter: OTLPTraceExporter } | undefined
  private sending: Promise<void> | undefined
  private timer: NodeJS.Timeout | undefined
  private stopped = false

  /** @param url where spans go, such as http://127.0.0.1:8080/v1/traces; undefined while unknown. */
  constructor(private readonly url: () => string | undefined) {}

  export(spans: ReadableSpan[], done: (result: ExportResult) => void): void {
    if (!this.stopped) {
      this.keep([...this.pending, ...spans])
      this.flushSoon(0)
    }
    done({ code: ExportResultCode.SUCCESS })
  }

  async forceFlush(): Promise<void> {
    await this.flush()
  }

  async shutdown(): Promise<void> {
    const deadline = new AbortController()
    const flushed = (async () => {
      while (this.pending.length > 0 && !deadline.signal.aborted && this.url() !== undefined) {
        const before = this.pending.length
        await this.flush()
        if (this.pending.length >= before) await delay(RETRY_MS, deadline.signal)
      }
    })()
    await Promise.race([flushed, delay(SHUTDOWN_MS, deadline.signal)])
    deadline.abort()
    this.stopped = true
    clearTimeout(this.timer)
    this.pending = []
    // Not awaited: it waits for requests that nobody may ever answer.
    void this.target?.exporter.shutdown().catch(() => {})
  }

  /** Sends all that waits, batch by batch, until it is done or one fails. */
  private flush(): Promise<void> {
    this.sending ??= this.sendPending().finally(() => {
      this.sending = undefined
      if (this.pending.length > 0 && !this.stopped) this.flushSoon(RETRY_MS)
    })
    return this.sending
  }

  private async sendPending(): Promise<void> {
    while (this.pending.length > 0 && !this.stopped) {
      const exporter = this.exporter()
      if (exporter === undefined) return
      const batch = this.pending.slice(0, BATCH_SPANS_MAX)
      this.pending = this.pending.slice(batch.length)
      if (!(await send(exporter, batch))) {
        this.keep([...batch, ...this.pending])
        return
      }
    }
  }

  private keep(spans: ReadableSpan[]): void {
    this.pending = spans.length > PENDING_SPANS_MAX ? spans.slice(-PENDING_SPANS_MAX) : spans
  }

  private flushSoon(ms: number): void {
    if (this.timer !== undefined || this.sending !== undefined) return
    this.timer = setTimeout(() => {
      this.timer = undefined
      void this.flush()
    }, ms)
    this.timer.unref()
  }

  private exporter(): OTLPTraceExporter | undefined {
    const url = this.url()
    if (url === undefined) return undefined
    if (this.target?.url !== url) {
      void this.target?.exporter.shutdown().catch(() => {})
      this.target = { url, exporter: new OTLPTraceExporter({ url, timeoutMillis: SEND_DEADLINE_MS }) }
    }
    return this.target.exporter
  }
}

function send(exporter: OTLPTraceExporter, spans: ReadableSpan[]): Promise<boolean> {
  return new Promise((resolve) => {
    exporter.export(spans, (result) => resolve(result.code === ExportResultCode.SUCCESS))
  })
}
