/** `kvasir down`: stops the cluster that runs from this state folder, in order. */
import { delay } from '@kvasir/runtime/deferred'
import { DeadlineError, UnavailableError } from '@kvasir/runtime/errors'
import type { Command } from 'commander'
import { isAlive, type ProcessIdentity } from '#setup/process-identity'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { liveSupervisor, readLiveRecord } from '../supervisor/run-record.js'
import { printJson, say, withProgress } from '../terminal.js'
import type { Run } from './run-command.js'

/** Longer than the supervisor gives its processes one after the other. */
const stopMsMax = 45_000
const pollMs = 50

export function downCommand(program: Command, run: Run): void {
  program
    .command('down')
    .description('stop the local cluster: running requests end first')
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) => run(() => down(options.json ?? false)))
}

async function down(json: boolean): Promise<ExitCode> {
  const supervisor = liveSupervisor()
  if (supervisor === undefined) {
    if (json) printJson({ stopped: false, pid: null })
    else say('no cluster runs here')
    return EXIT.ok
  }
  const url = readLiveRecord()?.url
  askToEnd(supervisor.pid)
  await withProgress(waitUntilGone(supervisor), (seconds) =>
    say(`waiting for running requests to end … ${seconds} s`),
  )
  if (json) printJson({ stopped: true, pid: supervisor.pid })
  else say(url === undefined ? 'stopped the cluster' : `stopped the cluster at ${url}`)
  return EXIT.ok
}

function askToEnd(pid: number): void {
  try {
    process.kill(pid, 'SIGTERM')
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'EPERM') {
      throw new UnavailableError(
        `The cluster's supervisor (process ${pid}) belongs to another user: stop it as that user.`,
      )
    }
    // It has ended in the meantime.
    if (code !== 'ESRCH') throw error
  }
}

async function waitUntilGone(supervisor: ProcessIdentity): Promise<void> {
  const end = performance.now() + stopMsMax
  while (isAlive(supervisor)) {
    if (performance.now() > end) {
      throw new DeadlineError(
        `The supervisor (process ${supervisor.pid}) has not ended: end it with \`kill -9 ${supervisor.pid}\`; its processes end with it.`,
      )
    }
    await delay(pollMs)
  }
}
