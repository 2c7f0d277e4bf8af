/**
 * The driver that the settings name: in this process, a process that is there, or one that is started here.
 *
 * A driver that is lost takes its agent with it (`DeviceDriver.lost`), which ends with one sentence; whoever
 * supervises the agent starts it again, and with it the driver. So there is one way back for every fault.
 */
import type { DeviceDriver } from '@kvasir/engine/device-driver'
import { withDeadline } from '@kvasir/runtime/deferred'
import { InvalidInputError, UnavailableError } from '@kvasir/runtime/errors'
import type { DeviceDefinition } from '../definition.js'
import type { AgentSettings } from '../settings.js'
import { startDriverChild } from './driver-child.js'
import { CLOSE_MS } from './limits.js'
import { connectSocketDriver } from './socket-driver.js'

/** How long the end of a driver's process may come after that of its connection, and say more. */
const REASON_MS = 500

type DriverSettings = Pick<AgentSettings, 'driver' | 'threads' | 'provider' | 'deviceId'>

/** Undefined for an agent that has no device. Throws UnavailableError where the driver does not come up in time. */
export async function openDriver(
  { driver: factory, kind }: Pick<DeviceDefinition, 'driver' | 'kind'>,
  { driver, threads, provider, deviceId }: DriverSettings,
): Promise<DeviceDriver | undefined> {
  if (driver === undefined)
    return factory?.create({ provider, ...(threads === undefined ? {} : { threads }) })
  if (factory === undefined) {
    throw new InvalidInputError(`A device of kind ${kind} needs no driver; leave driver out.`, {
      param: 'driver',
    })
  }
  const param = threads !== undefined ? 'threads' : provider !== 'cpu' ? 'provider' : undefined
  if (param !== undefined) {
    throw new InvalidInputError(
      `The driver is a process of its own, which ${param} says nothing to; leave it out, and give the driver its own options.`,
      { param },
    )
  }
  const where = driver.slice(driver.indexOf(':') + 1)
  if (driver.startsWith('exec:')) return startDriver(where, deviceId)
  return connectSocketDriver({ socketPath: where, agent: deviceId })
}

/** Starts a driver by a command, to which `--socket PATH` is added, and connects to it. It ends with this process. */
export async function startDriver(command: string, name: string): Promise<DeviceDriver> {
  const { child, socketPath } = startDriverChild(command, name)
  const gone = new AbortController()
  void child.exited.then(({ reason }) => gone.abort(new UnavailableError(reason)))
  const reason = async () => {
    const exit = withDeadline(child.exited, REASON_MS, 'waiting for the end of the driver')
    return exit.then(
      (ended) => ended.reason,
      () => 'it closed the connection',
    )
  }
  try {
    const driver = await connectSocketDriver({ socketPath, agent: name, signal: gone.signal, reason })
    return {
      ...driver,
      async close() {
        await driver.close()
        await child.stop(CLOSE_MS)
      },
    }
  } catch (error) {
    child.kill('SIGKILL')
    await child.exited
    throw error
  }
}
