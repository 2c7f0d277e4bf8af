/**
 * Sends kept spans on to another backend over OTLP/HTTP JSON.
 *
 * Invariants: serving never waits for it; the queue is bounded in spans and what does not
 * fit is dropped and counted; one request is in flight at a time, with a deadline; a batch
 * that the backend could not take is tried again with growing pauses, then dropped.
 */
import { delay } from '@kvasir/runtime/deferred'
import { messageOf } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import { toOtlpJson } from './otlp-json.js'
import type { StoredSpan } from './stored-span.js'

const QUEUED_SPANS_MAX = 20_000
const BATCH_SPANS_MAX = 500
const POST_TIMEOUT_MS = 5_000
const ATTEMPTS_MAX = 4
const FIRST_PAUSE_MS = 500
const RETRYABLE = new Set([429, 502, 503, 504])

export interface ForwarderOptions {
  /** Where spans are posted, path included. */
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly log: Logger
}

export class TraceForwarder {
  private queue: StoredSpan[] = []
  private sending: Promise<void> | undefined
  private readonly closing = new AbortController()
  private failing = false
  spansDropped = 0
  spansSent = 0

  constructor(private readonly options: ForwarderOptions) {}

  /** Takes spans at once, or drops those that do not fit. */
  push(spans: readonly StoredSpan[]): void {
    if (this.closing.signal.aborted) return
    const room = QUEUED_SPANS_MAX - this.queue.length
    this.spansDropped += Math.max(0, spans.length - room)
    this.queue.push(...spans.slice(0, room))
    this.sending ??= this.sendAll()
  }

  /** Sends what is queued, for `deadlineMs` at most; the rest is dropped. */
  async close(deadlineMs: number): Promise<void> {
    const timer = setTimeout(() => this.closing.abort(), deadlineMs)
    await this.sending
    clearTimeout(timer)
    this.closing.abort()
  }

  private async sendAll(): Promise<void> {
    while (this.queue.length > 0) {
      const batch = this.queue.splice(0, BATCH_SPANS_MAX)
      const error = await this.sendBatch(batch)
      if (error === undefined) this.spansSent += batch.length
      else this.spansDropped += batch.length
      this.report(error)
    }
    this.sending = undefined
  }

  /** The error of the last attempt; undefined where it worked. */
  private async sendBatch(batch: readonly StoredSpan[]): Promise<string | undefined> {
    const { signal } = this.closing
    const body = JSON.stringify(toOtlpJson(batch))
    let error = 'closing'
    for (let attempt = 0; attempt < ATTEMPTS_MAX && !signal.aborted; attempt++) {
      if (attempt > 0) await delay(FIRST_PAUSE_MS * 4 ** (attempt - 1), signal)
      try {
        const response = await fetch(this.options.url, {
          method: 'POST',
          headers: { 'content-type': 'application/json', ...this.options.headers },
          body,
          signal: AbortSignal.any([signal, AbortSignal.timeout(POST_TIMEOUT_MS)]),
        })
        await response.arrayBuffer()
        if (response.ok) return undefined
        error = `it answered ${response.status}`
        if (!RETRYABLE.has(response.status)) return error
      } catch (thrown) {
        const cause = thrown instanceof Error && thrown.cause !== undefined ? thrown.cause : thrown
        error = messageOf(cause)
      }
    }
    return error
  }

  /** One line when sending begins to fail, one when it works again. */
  private report(error: string | undefined): void {
    const { log, url } = this.options
    if (error !== undefined && !this.failing) {
      log.warn(
        `Traces cannot be sent to ${url}: ${error}. They are still kept here; check OTEL_EXPORTER_OTLP_ENDPOINT.`,
      )
    } else if (error === undefined && this.failing) {
      log.info(`Traces are sent to ${url} again.`)
    }
    this.failing = error !== undefined
  }
}

/**
 * Where and with which headers to send, by the standard variables; undefined where
 * none is set. OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is a whole URL,
 * OTEL_EXPORTER_OTLP_ENDPOINT the base of one.
 */
export function forwardTarget(
  environment: Readonly<Record<string, string | undefined>>,
): { url: string; headers: Record<string, string> } | undefined {
  const base = environment.OTEL_EXPORTER_OTLP_ENDPOINT
  const url =
    environment.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT || (base && `${base.replace(/\/+$/, '')}/v1/traces`)
  if (!url) return undefined
  const headers: Record<string, string> = {}
  for (const pair of (environment.OTEL_EXPORTER_OTLP_HEADERS ?? '').split(',')) {
    const at = pair.indexOf('=')
    if (at > 0) headers[pair.slice(0, at).trim()] = decodeURIComponent(pair.slice(at + 1).trim())
  }
  return { url, headers }
}
