/** `kvasir down`: stops the cluster that runs from this state folder, in order. */
import { delay } from '@kvasir/runtime/deferred'
import { DeadlineError } from '@kvasir/runtime/errors'
import type { Command } from 'commander'
import { isAlive } from '#setup/process-identity'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { readLiveRecord } from '../supervisor/run-record.js'
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
  const record = readLiveRecord()
  if (record === undefined) {
    if (json) printJson({ stopped: false, pid: null })
    else say('no cluster runs here')
    return EXIT.ok
  }
  process.kill(record.pid, 'SIGTERM')
  await withProgress(waitUntilGone({ pid: record.pid, start: record.pidStart }), (seconds) =>
    say(`waiting for running requests to end … ${seconds} s`),
  )
  if (json) printJson({ stopped: true, pid: record.pid })
  else say(`stopped the cluster at ${record.url}`)
  return EXIT.ok
}

async function waitUntilGone(supervisor: { pid: number; start: string }): Promise<void> {
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
