/**
 * `kvasir up`: a cluster that stays until it is stopped, in this terminal or detached.
 *
 * A detached supervisor has a session of its own and writes to `.kvasir/log/supervisor.log`;
 * this command follows that file until the cluster serves or the supervisor has ended.
 */
import { spawn } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, renameSync } from 'node:fs'
import path from 'node:path'
import { delay } from '@kvasir/runtime/deferred'
import { UnavailableError } from '@kvasir/runtime/errors'
import { logFolder, projectRoot } from '@kvasir/runtime/state-folder'
import type { Command } from 'commander'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { liveSupervisor, type RunRecord, readLiveRecord } from '../supervisor/run-record.js'
import { runSupervisor, runsAlready } from '../supervisor/run-supervisor.js'
import { print, printJson, say } from '../terminal.js'
import { interruptSignal, type Run } from './run-command.js'
import { addUpOptions, clusterWish, modelsOf, type UpOptions } from './up-options.js'

const pollMs = 50

interface CommandOptions extends UpOptions {
  readonly detach?: boolean
  readonly json?: boolean
}

export function upCommand(program: Command, run: Run): void {
  addUpOptions(program.command('up'))
    .description('start a local cluster and stay up; --detach leaves it running')
    .option('--detach', 'return once the cluster serves, and leave it running')
    .option('--json', 'print the run record as JSON')
    .action((options: CommandOptions) =>
      run(async () => {
        const wish = await clusterWish(options)
        if (options.detach) return upDetached(options)
        return runSupervisor({
          wish,
          natsUrl: options.nats,
          whenReady: async () => {
            say(`the cluster is up; ${process.stdin.isTTY ? 'Ctrl-C' : '`npx kvasir down`'} stops it`)
            tellRecord(readLiveRecord(), options.json)
            return 'stay'
          },
        })
      }),
    )
}

async function upDetached(options: CommandOptions): Promise<ExitCode> {
  const interrupted = interruptSignal()
  // Before the log is touched, which is the running one's.
  const running = liveSupervisor()
  if (running !== undefined) throw runsAlready(running.pid)
  const logFile = path.join(logFolder(), 'supervisor.log')
  mkdirSync(logFolder(), { recursive: true })
  if (existsSync(logFile)) renameSync(logFile, `${logFile}.previous`)
  const log = openSync(logFile, 'a')
  const child = spawn(
    process.execPath,
    [path.join(projectRoot(), 'cli/bin/kvasir.mjs'), 'up', ...argumentsOf(options)],
    {
      detached: true,
      stdio: ['ignore', 'ignore', log],
      env: detachedEnvironment(),
    },
  )
  closeSync(log)
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => resolve())
    child.once('error', () => resolve())
  })
  let over = false
  void ended.then(() => {
    over = true
  })
  for (let shown = 0; ; ) {
    shown = showNewLines(logFile, shown)
    const record = readLiveRecord()
    if (record !== undefined && record.pid === child.pid) {
      child.unref()
      tellRecord(record, options.json)
      return EXIT.ok
    }
    if (over) {
      showNewLines(logFile, shown)
      throw new UnavailableError(
        `The cluster did not start; the lines above say why, and so does ${logFile}.`,
      )
    }
    if (interrupted.aborted) {
      child.kill('SIGTERM')
      await ended
      return EXIT.interrupted
    }
    await delay(pollMs)
  }
}

/** Prints the lines that were added to a file; returns how many characters were shown in all. */
function showNewLines(file: string, shown: number): number {
  const text = readFileSync(file, 'utf8')
  const end = text.lastIndexOf('\n') + 1
  if (end > shown) process.stderr.write(text.slice(shown, end))
  return Math.max(end, shown)
}

function argumentsOf(options: CommandOptions): string[] {
  const models = modelsOf(options).flatMap((model) => ['--model', model])
  const args = [...models, '--gpus', String(options.gpus), '--fpgas', String(options.fpgas)]
  if (options.profile !== undefined) args.push('--profile', options.profile)
  if (options.port !== undefined) args.push('--port', String(options.port))
  if (options.nats !== undefined) args.push('--nats', options.nats)
  if (options.driverProcess === true) args.push('--driver-process')
  for (const wish of options.pace ?? []) args.push('--pace', wish)
  if (options.paceModel !== undefined) args.push('--pace-model', options.paceModel)
  if (options.pacePreset !== undefined) args.push('--pace-preset', options.pacePreset)
  for (const file of options.catalogue ?? []) args.push('--catalogue', file)
  for (const [flag, value] of [
    ['--link-bytes-per-second', options.linkBytesPerSecond],
    ['--hbm-bytes', options.hbmBytes],
    ['--ddr-bytes', options.ddrBytes],
    ['--host-bytes', options.hostBytes],
  ] as const) {
    if (value !== undefined) args.push(flag, String(value))
  }
  return args
}

/** Without what ties a process to the npm or the process that started it. */
function detachedEnvironment(): NodeJS.ProcessEnv {
  const environment = { ...process.env }
  for (const name of Object.keys(environment)) {
    if (name.startsWith('npm_') || name === 'KVASIR_PARENT_PID') delete environment[name]
  }
  return environment
}

function tellRecord(record: RunRecord | undefined, json: boolean | undefined): void {
  if (record === undefined) return
  if (json) printJson(record)
  else print(record.url)
}
