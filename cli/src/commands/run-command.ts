/** How a command's work becomes an exit code and, where it fails, one sentence on stderr. */
import { InvalidInputError, KvasirError } from '@kvasir/runtime/errors'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { say } from '../terminal.js'

export type Run = (work: () => Promise<ExitCode>) => Promise<void>

/** Runs a command and sets the process's exit code. */
export async function runCommand(work: () => Promise<ExitCode>): Promise<void> {
  try {
    process.exitCode = await work()
  } catch (thrown) {
    const error = KvasirError.from(thrown)
    say(error.message)
    if (error.code === 'internal' && error.cause instanceof Error) say(error.cause.stack ?? '')
    process.exitCode = error instanceof InvalidInputError ? EXIT.usage : EXIT.failure
  }
}

/** Aborts at Ctrl-C, for commands that wait; the second Ctrl-C ends the process. */
export function interruptSignal(): AbortSignal {
  const controller = new AbortController()
  process.on('SIGINT', () => {
    if (controller.signal.aborted) process.exit(EXIT.interrupted)
    controller.abort()
  })
  return controller.signal
}
