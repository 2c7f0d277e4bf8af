/**
 * The life of a process: start, run, drain, end.
 *
 * Invariants:
 * L1 The first SIGTERM or SIGINT drains and closes, once and within a bound; the second
 *    ends the process at once.
 * L2 A start that fails, or an error that nobody caught, ends the process with exit code 1
 *    and one sentence on stderr.
 * L3 A process that was told its parent ends when the parent is gone, kill -9 included.
 *
 * Not the job of this file: how other processes are started (child.ts) and how parents
 * are watched (parent.ts).
 */
import { withDeadline } from './deferred.js'
import { CancelledError, KvasirError } from './errors.js'
import type { Logger } from './log.js'
import { watchParent } from './parent.js'

export { awaitReady, type Child, type ChildExit, type SpawnOptions, spawnChild } from './child.js'
export { watchParent } from './parent.js'
export { announceReady, type ReadyFacts } from './ready.js'

/** Time a drain gets, and time that closing gets after it. */
const DRAIN_MS = 10_000
const CLOSE_MS = 3_000

export interface ProcessContext {
  /** Aborts when the process is asked to end, during the start too. */
  readonly signal: AbortSignal
  /** Where the process keeps its logger, so that its end is logged; set it in `start`. */
  log?: Logger
  /** Asks the process to end, as a signal would; for an error, which is said on stderr, with exit code 1. */
  stop(error?: KvasirError): void
}

export interface Running {
  /** Refuses new work and lets running work end, at most `deadlineMs`. */
  drain(deadlineMs: number): Promise<void>
  /** Frees everything. */
  close(): Promise<void>
}

export interface ProcessOptions {
  /** Starts error messages. */
  readonly name: string
  readonly start: (context: ProcessContext) => Promise<Running>
  readonly drainMs?: number
}

type State =
  | { readonly at: 'starting' }
  | { readonly at: 'running'; readonly running: Running }
  | { readonly at: 'ending' }

/** Runs the process to its end, which is a call of process.exit. */
export function runProcess(options: ProcessOptions): void {
  const drainMs = options.drainMs ?? DRAIN_MS
  const stopping = new AbortController()
  let state: State = { at: 'starting' }
  let exitCode = 0

  const say = (error: KvasirError) => {
    context.log?.error({ err: error }, 'the process ends by an error')
    process.stderr.write(`${options.name}: ${error.message.replaceAll('\n', ' ')}\n`)
  }
  const fail = (thrown: unknown): never => {
    say(KvasirError.from(thrown))
    process.exit(1)
  }
  const end = async (running: Running) => {
    state = { at: 'ending' }
    context.log?.info('draining')
    try {
      await withDeadline(running.drain(drainMs), drainMs, 'draining')
    } catch (error) {
      context.log?.warn({ err: error }, 'the drain did not end well; closing all the same')
    }
    try {
      await withDeadline(running.close(), CLOSE_MS, 'closing')
    } catch (error) {
      context.log?.warn({ err: error }, 'closing did not end well')
    }
    context.log?.info('ended')
    process.exit(exitCode)
  }
  const stop = (error?: KvasirError) => {
    if (stopping.signal.aborted) return
    if (error !== undefined) {
      exitCode = 1
      say(error)
    }
    stopping.abort(new CancelledError(`${options.name} was asked to end.`))
    if (state.at === 'running') void end(state.running)
    // A start that does not watch its signal gets the same time as a drain.
    else setTimeout(() => process.exit(exitCode), drainMs).unref()
  }
  const context: ProcessContext = { signal: stopping.signal, stop }

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (stopping.signal.aborted) process.exit(exitCode === 0 ? 130 : exitCode)
      stop()
    })
  }
  process.on('uncaughtException', fail)
  process.on('unhandledRejection', fail)
  // A terminal that was closed must not end the process through its output.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  watchParent(() => {
    context.log?.warn('the parent process is gone; ending')
    process.exit(1)
  })

  options.start(context).then(
    (running) => {
      if (stopping.signal.aborted) return end(running)
      state = { at: 'running', running }
    },
    (error: unknown) => {
      if (stopping.signal.aborted) process.exit(exitCode)
      fail(error)
    },
  )
}
