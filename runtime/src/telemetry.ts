/**
 * Traces: OpenTelemetry, wired by hand, once a process.
 *
 * Every span is exported, whatever the caller's sampling flag says: which traces are
 * kept is decided at their end, where they arrive. Names and attributes are those of
 * telemetry-names.ts. Without `startTelemetry` all of this does nothing, so code that
 * makes spans runs in tests as it is.
 */
import {
  type Attributes,
  type Context,
  context,
  propagation,
  type Span,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  trace,
} from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import { resourceFromAttributes } from '@opentelemetry/resources'
import { AlwaysOnSampler, BatchSpanProcessor, type SpanExporter } from '@opentelemetry/sdk-trace-base'
import { NodeTracerProvider } from '@opentelemetry/sdk-trace-node'
import { KvasirError } from './errors.js'
import { SOFTWARE_VERSION } from './protocol.js'
import { OtlpExporter } from './telemetry-export.js'
import { ATTRIBUTE, type SpanName } from './telemetry-names.js'

/** How long a finished span waits for company. */
const EXPORT_DELAY_MS = 200
/** Finished spans that wait for export; more are dropped. */
const QUEUE_SPANS_MAX = 4_096
/** Bound on `close`: a dead receiver does not hold up the end of a process. */
const CLOSE_MS = 1_500

export interface TelemetryOptions {
  /** Such as coordinator or gpu-agent. */
  readonly service: string
  /** Tells processes of one service apart: the device or coordinator id. */
  readonly instance: string
  /** Where spans go: an exporter in this process, or an OTLP receiver that may become known later. */
  readonly exporter: SpanExporter | { readonly otlpUrl: () => string | undefined }
}

export interface Telemetry {
  /** Sends what is finished, within a bound, and ends. */
  close(): Promise<void>
}

export function startTelemetry(options: TelemetryOptions): Telemetry {
  const exporter =
    'otlpUrl' in options.exporter ? new OtlpExporter(options.exporter.otlpUrl) : options.exporter
  const provider = new NodeTracerProvider({
    resource: resourceFromAttributes({
      'service.name': options.service,
      'service.instance.id': options.instance,
      'service.version': SOFTWARE_VERSION,
      'process.pid': process.pid,
    }),
    sampler: new AlwaysOnSampler(),
    spanProcessors: [
      new BatchSpanProcessor(exporter, {
        scheduledDelayMillis: EXPORT_DELAY_MS,
        maxQueueSize: QUEUE_SPANS_MAX,
        maxExportBatchSize: 512,
        exportTimeoutMillis: CLOSE_MS,
      }),
    ],
  })
  provider.register({
    contextManager: new AsyncLocalStorageContextManager().enable(),
    propagator: new W3CTraceContextPropagator(),
  })
  return {
    async close() {
      const bound = new AbortController()
      const timeout = new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, CLOSE_MS)
        bound.signal.addEventListener('abort', () => clearTimeout(timer))
      })
      await Promise.race([provider.shutdown().catch(() => {}), timeout])
      bound.abort()
      trace.disable()
      context.disable()
      propagation.disable()
    },
  }
}

export function tracer(): Tracer {
  return trace.getTracer('kvasir', SOFTWARE_VERSION)
}

/** A span that the caller ends; a child of `parent`, or of the active span where left out. */
export function startSpan(
  name: SpanName,
  attributes: Attributes,
  parent: Context = context.active(),
  settings: { readonly kind?: SpanKind } = {},
): Span {
  return tracer().startSpan(name, { attributes, kind: settings.kind ?? SpanKind.INTERNAL }, parent)
}

/** Runs `fn` inside a new span, which ends with it; what it throws is recorded and thrown on. */
export async function withSpan<T>(
  name: SpanName,
  attributes: Attributes,
  fn: (span: Span) => Promise<T> | T,
  settings: { readonly kind?: SpanKind; readonly parent?: Context } = {},
): Promise<T> {
  const parent = settings.parent ?? context.active()
  const span = startSpan(name, attributes, parent, settings)
  try {
    return await context.with(trace.setSpan(parent, span), () => fn(span))
  } catch (error) {
    recordError(span, error)
    throw error
  } finally {
    span.end()
  }
}

/** Marks the span as failed, with the error's code and message. One that was cancelled did not fail. */
export function recordError(span: Span, thrown: unknown): void {
  const error = KvasirError.from(thrown)
  span.setAttribute(ATTRIBUTE.errorCode, error.code)
  span.recordException({ name: error.name, message: error.message })
  if (error.code !== 'cancelled') span.setStatus({ code: SpanStatusCode.ERROR, message: error.message })
}

/** The trace id of the active span; undefined outside any. */
export function activeTraceId(): string | undefined {
  return trace.getActiveSpan()?.spanContext().traceId
}
