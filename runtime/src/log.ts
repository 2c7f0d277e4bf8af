/**
 * One logger a process: JSON lines to a file, one readable line each on a terminal.
 *
 * A line logged inside a trace carries its `trace_id` and `span_id`. Writing is
 * synchronous, so that the last line before a crash is in the file; a full disk or a
 * closed terminal loses lines and never ends the process.
 */
import { trace } from '@opentelemetry/api'
import { type DestinationStream, destination, type Logger, multistream, pino, type StreamEntry } from 'pino'
import { prettyFactory } from 'pino-pretty'

export type { Logger } from 'pino'

export interface LogOptions {
  /** Name of the process, in every line. */
  readonly service: string
  /** JSON lines are appended here; the folder is created. */
  readonly file?: string
  /** Whether to write readable lines to stderr. */
  readonly terminal: boolean
  /** Lowest level that is kept. */
  readonly level?: 'debug' | 'info' | 'warn' | 'error'
}

export function createLogger(options: LogOptions): Logger {
  const level = options.level ?? 'info'
  const streams: StreamEntry[] = []
  if (options.file !== undefined) streams.push({ level, stream: fileStream(options.file) })
  if (options.terminal) streams.push({ level, stream: terminalStream() })
  return pino(
    {
      level,
      base: { service: options.service, pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      mixin: traceIds,
    },
    multistream(streams),
  )
}

function traceIds(): object {
  const span = trace.getActiveSpan()?.spanContext()
  return span === undefined ? {} : { trace_id: span.traceId, span_id: span.spanId }
}

function fileStream(file: string): DestinationStream {
  const stream = destination({ dest: file, mkdir: true, append: true, sync: true })
  stream.on('error', () => {})
  return stream
}

let stderrGuarded = false

function terminalStream(): DestinationStream {
  if (!stderrGuarded) {
    stderrGuarded = true
    process.stderr.on('error', () => {})
  }
  const pretty = prettyFactory({
    colorize: process.stderr.isTTY === true && process.env.NO_COLOR === undefined,
    ignore: 'pid,hostname,service,trace_id,span_id',
    messageFormat: '[{service}] {msg}',
    singleLine: true,
    translateTime: 'SYS:HH:MM:ss.l',
  })
  return {
    write(line: string) {
      process.stderr.write(pretty(line))
    },
  }
}
