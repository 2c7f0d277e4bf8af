/** `kvasir trace ID`: draws a request's trace, or writes it for Perfetto. */
import { existsSync } from 'node:fs'
import path from 'node:path'
import type { TraceView } from '@kvasir/coordinator/trace-store/trace-store'
import { InvalidInputError, messageOf, NotFoundError, UnavailableError } from '@kvasir/runtime/errors'
import type { Command } from 'commander'
import { writeAtomic } from '#setup/atomic-file'
import { callApi, callJson } from '../client/api-client.js'
import { locateCluster } from '../client/locate-cluster.js'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { formatDuration } from '../format.js'
import { color, print, printJson, say, withProgress } from '../terminal.js'
import { drawTree } from '../trace/draw-tree.js'
import { toPerfetto } from '../trace/perfetto.js'
import { buildSpanTree } from '../trace/span-tree.js'
import type { Run } from './run-command.js'

/** Agents send their spans in batches; the coordinator answers once all are there, or after this. */
const waitMs = 5_000
const barCells = 30

interface TraceOptions {
  readonly perfetto?: string
  readonly json?: boolean
}

export function traceCommand(program: Command, run: Run): void {
  program
    .command('trace <id>')
    .description('draw the trace of a request; ID is a request or trace id')
    .option('--perfetto <file>', 'write it as Chrome trace-event JSON, for https://ui.perfetto.dev')
    .option('--json', 'print one JSON document')
    .action((id: string, options: TraceOptions) => run(() => showTrace(id, options)))
}

async function showTrace(id: string, options: TraceOptions): Promise<ExitCode> {
  const trace = await withProgress(fetchTrace(locateCluster(), id), (seconds) =>
    say(`waiting for the last spans … ${seconds} s`),
  )
  if (options.perfetto !== undefined) {
    // A mistyped path makes no folders (and below /proc, Node would try for ever).
    const folder = path.dirname(path.resolve(options.perfetto))
    if (!existsSync(folder)) {
      throw new InvalidInputError(`${folder} is no folder: create it, or name another file.`)
    }
    try {
      writeAtomic(path.resolve(options.perfetto), `${JSON.stringify(toPerfetto(trace))}\n`)
    } catch (error) {
      throw new UnavailableError(
        `${options.perfetto} cannot be written (${messageOf(error)}): name another file.`,
      )
    }
    say(`wrote ${options.perfetto}; open it at https://ui.perfetto.dev`)
  }
  if (options.json) printJson(trace)
  else if (options.perfetto === undefined) draw(trace)
  if (!trace.complete) say('the trace is not complete: a process was lost, or the request still runs')
  if (trace.droppedSpans > 0) say(`${trace.droppedSpans} spans were dropped, since the trace is too large`)
  return EXIT.ok
}

/**
 * The trace once all its spans have arrived, or what there is of it after `waitMs`.
 * @throws NotFoundError at once where neither a trace nor a request has this id
 */
export async function fetchTrace(url: string, id: string): Promise<TraceView> {
  const name = encodeURIComponent(id)
  try {
    await callJson(url, `/v1/traces/${name}`)
  } catch (error) {
    if (!(error instanceof NotFoundError)) throw error
    // A request that has just ended may have sent no span yet; an unknown one never will.
    await callJson(url, `/v1/requests/${name}`).catch(() => {
      throw error
    })
  }
  const response = await callApi(url, `/v1/traces/${name}?wait=${waitMs}`, {
    signal: AbortSignal.timeout(waitMs * 2),
  })
  return (await response.json()) as TraceView
}

function draw(trace: TraceView): void {
  const duration = formatDuration(buildSpanTree(trace.spans).durationUs / 1000)
  print(`${color.bold(trace.requestId)}  trace ${trace.traceId}  ${duration}\n`)
  print(drawTree(trace.spans, { barCells, highlight: color.red }).join('\n'))
}
