/**
 * Starts other processes so that none outlives its parent.
 *
 * Invariants:
 * P1 On Linux the kernel kills the child when this process dies, kill -9 included
 *    (`setpriv --pdeathsig`); everywhere the child can watch its parent (parent.ts).
 *    Must be called on the main thread: the kernel watches the thread that started it.
 * P2 The child has a session of its own, so Ctrl-C in a terminal reaches this process
 *    alone, which then drains its children in order.
 * P3 SIGKILL goes to the child's whole group, so nothing it started is left behind.
 * P4 The child's output is always read, so it never blocks on a full pipe; the last lines
 *    of stderr are kept to say why it died.
 */
import { type ChildProcess as NodeChild, spawn, spawnSync } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, writeSync } from 'node:fs'
import { basename, delimiter, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { type Deferred, deferred, withDeadline } from './deferred.js'
import { messageOf, UnavailableError } from './errors.js'
import { PARENT_VARIABLE } from './parent.js'
import { parseReadyLine, type ReadyFacts } from './ready.js'

const STDERR_LINES_KEPT = 20
const LINE_CHARACTERS_MAX = 2_000

export interface SpawnOptions {
  /** Added to this process's environment. */
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly cwd?: string
  /** Raw output, stdout and stderr, is appended here; the folder is created. */
  readonly logFile?: string
  /** Called once when the child has ended. */
  readonly onExit?: (exit: ChildExit) => void
  /** What messages call it; the command's name where left out. */
  readonly name?: string
}

export interface ChildExit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  /** One sentence: how it ended, and its last line on stderr. */
  readonly reason: string
}

export interface Child {
  readonly name: string
  readonly pid: number
  /** Settles with the first ready line; rejects when the child ends before. */
  readonly ready: Promise<ReadyFacts>
  /** Resolves when the child has ended. */
  readonly exited: Promise<ChildExit>
  readonly running: boolean
  /** Sends a signal; no error where the child has ended. */
  kill(signal?: NodeJS.Signals): void
  /** SIGTERM, and SIGKILL after `deadlineMs`; resolves when it has ended. */
  stop(deadlineMs: number): Promise<ChildExit>
}

/** Throws UnavailableError when the command cannot be run at all. */
export function spawnChild(command: string, args: readonly string[], options: SpawnOptions = {}): Child {
  const name = options.name ?? basename(command)
  const bound = deathSignalWrapper()
  const [file, ...rest] = [...bound, command, ...args]
  const node = spawn(file ?? command, rest, {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env, [PARENT_VARIABLE]: String(process.pid) },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  })
  const ready = deferred<ReadyFacts>()
  const exited = deferred<ChildExit>()
  const lastLines: string[] = []
  const sink = openSink(options.logFile)

  const readings = [
    readLines(node.stdout, (line) => {
      const facts = ready.settled ? undefined : parseReadyLine(line)
      if (facts !== undefined) ready.resolve(facts)
      sink.write(line)
    }),
    readLines(node.stderr, (line) => {
      lastLines.push(line)
      if (lastLines.length > STDERR_LINES_KEPT) lastLines.shift()
      sink.write(line)
    }),
  ]
  const ended = (code: number | null, signal: NodeJS.Signals | null, failure?: string) => {
    if (exited.settled) return
    const exit = { code, signal, reason: failure ?? exitReason(name, code, signal, lastLines) }
    sink.close()
    ready.reject(new UnavailableError(exit.reason))
    exited.resolve(exit)
    options.onExit?.(exit)
  }
  node.on('error', (error) => ended(null, null, `Cannot start ${name}: ${messageOf(error)}.`))
  node.on('exit', (code, signal) => {
    // What it wrote last may still be in the pipes; a grandchild may hold them open.
    const drained = withDeadline(Promise.all(readings), 500, `reading the last output of ${name}`)
    void drained.catch(() => {}).then(() => ended(code, signal))
  })
  return childOf(name, node, ready, exited)
}

/** Waits for the ready line. Throws UnavailableError with the child's last stderr line if it ends before. */
export async function awaitReady(child: Child, deadlineMs: number): Promise<ReadyFacts> {
  return withDeadline(child.ready, deadlineMs, `waiting for ${child.name} to become ready`)
}

function childOf(
  name: string,
  node: NodeChild,
  ready: Deferred<ReadyFacts>,
  exited: Deferred<ChildExit>,
): Child {
  const kill = (signal: NodeJS.Signals = 'SIGTERM') => {
    if (node.pid === undefined || node.exitCode !== null || node.signalCode !== null) return
    if (signal === 'SIGKILL') killGroup(node.pid)
    else node.kill(signal)
  }
  return {
    name,
    pid: node.pid ?? 0,
    ready: ready.promise,
    exited: exited.promise,
    get running() {
      return node.pid !== undefined && node.exitCode === null && node.signalCode === null
    },
    kill,
    async stop(deadlineMs) {
      kill('SIGTERM')
      try {
        return await withDeadline(exited.promise, deadlineMs, `waiting for ${name} to end`)
      } catch {
        kill('SIGKILL')
        return exited.promise
      }
    },
  }
}

/** Kills a child and what it started: it leads a group of its own. */
function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // It has ended already.
  }
}

function exitReason(
  name: string,
  code: number | null,
  signal: NodeJS.Signals | null,
  lastLines: readonly string[],
): string {
  const how = signal === null ? `exit code ${code}` : `signal ${signal}`
  const last = lastLines.findLast((line) => line.trim() !== '')
  return last === undefined ? `${name} ended with ${how}.` : `${name} ended with ${how}: ${last.trim()}`
}

/** Calls `onLine` for each line, cut at a bound; resolves at the end of the stream. */
function readLines(stream: Readable, onLine: (line: string) => void): Promise<void> {
  return new Promise((resolve) => {
    const lines = createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY })
    lines.on('line', (line) => onLine(line.slice(0, LINE_CHARACTERS_MAX)))
    lines.on('close', resolve)
    stream.on('error', () => lines.close())
  })
}

/** Appends lines to a file; a full disk loses lines. */
function openSink(path: string | undefined): { write(line: string): void; close(): void } {
  if (path === undefined) return { write() {}, close() {} }
  mkdirSync(dirname(path), { recursive: true })
  let file: number | undefined = openSync(path, 'a')
  return {
    write(line) {
      try {
        if (file !== undefined) writeSync(file, `${line}\n`)
      } catch {
        // Losing the line is better than losing the child.
      }
    },
    close() {
      if (file !== undefined) closeSync(file)
      file = undefined
    },
  }
}

let wrapper: readonly string[] | undefined

/** The command that has the kernel kill what it runs when this process dies; empty where there is none. */
function deathSignalWrapper(): readonly string[] {
  if (wrapper === undefined) {
    // By its whole path: a child's own PATH may lead elsewhere.
    const setpriv = process.platform === 'linux' ? findOnPath('setpriv') : undefined
    const candidate = setpriv === undefined ? [] : [setpriv, '--pdeathsig', 'SIGKILL', '--']
    const [file, ...args] = candidate
    // Other programs of that name know no --pdeathsig.
    const works = file !== undefined && spawnSync(file, [...args, 'true'], { stdio: 'ignore' }).status === 0
    wrapper = works ? candidate : []
  }
  return wrapper
}

function findOnPath(name: string): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== '')
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path))
}
