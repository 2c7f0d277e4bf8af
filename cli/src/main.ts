/** The `kvasir` command: its subcommands, and exit codes for wrong command lines. */
import { SOFTWARE_VERSION } from '@kvasir/runtime/protocol'
import { Command, CommanderError } from 'commander'
import { benchCommand } from './commands/bench.js'
import { calibrateCommand } from './commands/calibrate.js'
import { corpusCommand } from './commands/corpus.js'
import { devicesCommand } from './commands/devices.js'
import { doctorCommand } from './commands/doctor.js'
import { downCommand } from './commands/down.js'
import { driverCommand } from './commands/driver.js'
import { explainCommand } from './commands/explain.js'
import { kvCommand } from './commands/kv.js'
import { modelsCommand } from './commands/models.js'
import { runCommandOf } from './commands/run.js'
import { runCommand } from './commands/run-command.js'
import { startCommand } from './commands/start.js'
import { statusCommand } from './commands/status.js'
import { studyCommand } from './commands/study.js'
import { traceCommand } from './commands/trace.js'
import { upCommand } from './commands/up.js'
import { EXIT } from './exit-codes.js'
import { say } from './terminal.js'

const help = `
Commands talk to the cluster that runs from this folder, or to KVASIR_URL.
Exit codes: ${EXIT.ok} done, ${EXIT.failure} failed (one sentence on stderr says why), ${EXIT.usage} wrong command line or input, ${EXIT.interrupted} interrupted.`

/** @param args without node and script */
export async function main(args: readonly string[]): Promise<void> {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    // A reader that has seen enough, such as head, is no error; nor is a terminal that was closed.
    if (error.code === 'EPIPE' || error.code === 'EIO') process.exit(EXIT.ok)
    say(`The output cannot be written (${error.message}): free disk space, or send it elsewhere.`)
    process.exit(EXIT.failure)
  })
  // A terminal that was closed must not end a supervisor through its progress lines.
  process.stderr.on('error', () => {})
  try {
    await createProgram().parseAsync([...args], { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    // Commander has said it already; help and version are no errors.
    process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage
  }
}

export function createProgram(): Command {
  const program = new Command('kvasir')
    .description('Serves language models on machines that mix GPUs and FPGAs.')
    .version(SOFTWARE_VERSION)
    .addHelpText('after', help)
    .showHelpAfterError('(--help says more)')
    .exitOverride()
  for (const add of [
    startCommand,
    upCommand,
    downCommand,
    statusCommand,
    devicesCommand,
    modelsCommand,
    kvCommand,
    runCommandOf,
    explainCommand,
    traceCommand,
    corpusCommand,
    benchCommand,
    studyCommand,
    calibrateCommand,
    doctorCommand,
    driverCommand,
  ]) {
    add(program, runCommand)
  }
  return program
}
