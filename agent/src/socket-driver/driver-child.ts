/**
 * Starts the driver of a device as a process that lives no longer than this one.
 *
 * The command goes to a shell, so that it may be written as in a terminal, and gets `--socket PATH` as its last
 * arguments.
 */
import { mkdirSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { type Child, spawnChild } from '@kvasir/runtime/child'
import { isAlive } from '@kvasir/runtime/parent'
import { logFolder, stateFolder } from '@kvasir/runtime/state-folder'

/** Longest path that a Unix socket may have everywhere. */
const SOCKET_PATH_BYTES_MAX = 103

export interface DriverChild {
  readonly child: Child
  readonly socketPath: string
}

/** Must be called on the main thread. */
export function startDriverChild(command: string, name: string): DriverChild {
  const socketPath = freshSocketPath(name)
  const child = spawnChild('/bin/sh', ['-c', `exec ${command} "$@"`, 'driver', '--socket', socketPath], {
    name: `the driver of ${name}`,
    logFile: join(logFolder(), `${name}-driver.log`),
    onExit: () => rmSync(socketPath, { force: true }),
  })
  return { child, socketPath }
}

/** A path of this process, in the state folder where that is short enough. */
function freshSocketPath(name: string): string {
  const folder = join(stateFolder(), 'run')
  const own = `driver-${name}-${process.pid}.sock`
  const path = join(folder, own)
  if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX)
    return join(tmpdir(), `kvasir-${process.pid}-${name.slice(0, 24)}.sock`)
  mkdirSync(dirname(path), { recursive: true })
  removeLeftOvers(folder, `driver-${name}-`)
  return path
}

/** An agent that was killed could not remove its socket. */
function removeLeftOvers(folder: string, prefix: string): void {
  for (const file of readdirSync(folder)) {
    // Behind the prefix of a device of a longer name there is more than a process id.
    const pid = /^(\d+)\.sock$/.exec(file.slice(prefix.length))?.[1]
    if (!file.startsWith(prefix) || pid === undefined || isAlive(Number(pid))) continue
    rmSync(join(folder, file), { force: true })
  }
}
