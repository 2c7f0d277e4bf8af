/**
 * The process around a driver: `--socket PATH` and `--threads N`, signals, the ready line. Whoever has a
 * DeviceDriver calls `runDriverProcess` and is done.
 */
import { parseArgs } from 'node:util'
import { InvalidInputError, messageOf } from '@kvasir/runtime/errors'
import { announceReady, runProcess } from '@kvasir/runtime/lifecycle'
import type { DeviceDriver } from '../device-driver.js'
import { startDriverServer } from './driver-server.js'

export interface DriverProcessOptions {
  /** Starts error messages. */
  readonly name: string
  create(options: { readonly threads?: number }): DeviceDriver
}

/** Serves one agent after another until a signal, the parent's end, or the device's loss. */
export function runDriverProcess({ name, create }: DriverProcessOptions): void {
  runProcess({
    name,
    async start(context) {
      const { socketPath, ...options } = parsedArguments(process.argv.slice(2))
      const driver = create(options)
      const server = await startDriverServer(driver, {
        socketPath,
        onViolation: (why) => process.stderr.write(`${name}: the agent was let go: ${why}\n`),
      })
      void driver.lost.then((error) => context.stop(error))
      announceReady({ socket: socketPath, pid: process.pid })
      return {
        // An agent that drains leaves by itself; a driver has nothing of its own to finish.
        drain: () => Promise.resolve(),
        async close() {
          await server.close()
          await driver.close()
        },
      }
    },
  })
}

function parsedArguments(args: string[]): { readonly socketPath: string; readonly threads?: number } {
  let values: { socket?: string; threads?: string }
  try {
    values = parseArgs({ args, options: { socket: { type: 'string' }, threads: { type: 'string' } } }).values
  } catch (error) {
    throw new InvalidInputError(`${messageOf(error)}; it takes --socket PATH and --threads N.`)
  }
  const { socket, threads } = values
  if (socket === undefined || socket === '') {
    throw new InvalidInputError('--socket is missing; give the path of the Unix socket to listen on.')
  }
  if (threads === undefined) return { socketPath: socket }
  const count = Number(threads)
  if (!Number.isInteger(count) || count < 1) {
    throw new InvalidInputError(`--threads is "${threads}"; give a whole number from 1.`)
  }
  return { socketPath: socket, threads: count }
}
