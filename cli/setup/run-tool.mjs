/**
 * Runs the programs that set-up needs, none of which outlives it: where `setpriv` exists the
 * kernel ends them with their parent, kill -9 included.
 */
import { spawn } from 'node:child_process'
import { findExecutable } from './executables.mjs'
import { SetupError } from './progress.mjs'

const outputLinesKept = 25

/**
 * @typedef {object} ToolOptions
 * @property {string} [cwd]
 * @property {Record<string, string | undefined>} [environment] added to this process's
 */

/**
 * Runs a program quietly.
 * @param {string} what one phrase for the error, such as "installing node packages"
 * @param {string} command
 * @param {string[]} args
 * @param {ToolOptions} [options]
 * @returns {Promise<string>} its standard output
 * @throws {SetupError} with the end of its output
 */
export async function runQuietly(what, command, args, options = {}) {
  const child = start(command, args, options, ['ignore', 'pipe', 'pipe'])
  let output = ''
  let all = ''
  child.stdout?.setEncoding('utf8').on('data', (text) => {
    output += text
    all += text
  })
  child.stderr?.setEncoding('utf8').on('data', (text) => {
    all += text
  })
  const code = await exitOf(child)
  if (code === 0) return output
  const lines = all.trimEnd().split('\n').slice(-outputLinesKept)
  throw new SetupError(`${what} failed (${command} ended with ${code}):\n  ${lines.join('\n  ')}`)
}

/**
 * Runs a program on this terminal.
 * @param {string} command
 * @param {string[]} args
 * @param {ToolOptions} [options]
 * @returns {Promise<number>} exit code; 1 where a signal or a missing program ended it
 */
export async function runOnTerminal(command, args, options = {}) {
  const code = await exitOf(start(command, args, options, 'inherit'))
  return typeof code === 'number' ? code : 1
}

/**
 * @param {string} command
 * @param {string[]} args
 * @param {ToolOptions} options
 * @param {import('node:child_process').StdioOptions} stdio
 */
function start(command, args, options, stdio) {
  const setpriv = process.platform === 'linux' ? findExecutable('setpriv') : undefined
  const [file, ...rest] = setpriv
    ? [setpriv, '--pdeathsig', 'SIGKILL', '--', command, ...args]
    : [command, ...args]
  return spawn(/** @type {string} */ (file), rest, {
    cwd: options.cwd,
    env: { ...process.env, ...options.environment },
    stdio,
  })
}

/**
 * @param {import('node:child_process').ChildProcess} child
 * @returns {Promise<number | string>} exit code, or what ended it instead
 */
function exitOf(child) {
  return new Promise((resolve) => {
    child.on('error', (error) => resolve(error.message))
    child.on('close', (code, signal) => resolve(code ?? signal ?? 1))
  })
}
