/** How a command's work becomes an exit code and, where it fails, one sentence on stderr. */
import { InvalidInputError, KvasirError } from '@kvasir/runtime/errors'
import { stateFolder } from '@kvasir/runtime/state-folder'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { say } from '../terminal.js'

export type Run = (work: () => Promise<ExitCode>) => Promise<void>

/** Runs a command and sets the process's exit code. */
export async function runCommand(work: () => Promise<ExitCode>): Promise<void> {
  try {
    process.exitCode = await work()
  } catch (thrown) {
    const error = KvasirError.from(thrown)
    const refused = refusalOfFileSystem(error)
    say(refused ?? error.message)
    if (refused === undefined && error.code === 'internal' && error.cause instanceof Error) {
      say(error.cause.stack ?? '')
    }
    process.exitCode = error instanceof InvalidInputError ? EXIT.usage : EXIT.failure
  }
}

/** What the file system says of a folder that is not ours to write, or of a full disk. */
const refusals = new Set<unknown>(['EACCES', 'EPERM', 'EROFS', 'ENOSPC', 'EDQUOT', 'ENOTDIR'])

/**
 * What to tell where a file could not be used. Commands write in the state folder alone, but
 * for a path that was given to them, which they then name themselves.
 */
function refusalOfFileSystem({ code, cause }: KvasirError): string | undefined {
  if (code !== 'internal' || !(cause instanceof Error && 'code' in cause && refusals.has(cause.code))) {
    return undefined
  }
  return (
    `The state folder ${stateFolder()} cannot be used (${cause.message}): give yourself the right to ` +
    'write there or free disk space, or set KVASIR_HOME to another folder.'
  )
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
