/**
 * Finds nats-server, or gets one: Debian's package, else the official release.
 *
 * Invariant: a downloaded binary appears under the cache by one rename, complete and checked,
 * so a killed download leaves nothing that could be taken for it.
 */
import { randomBytes } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import path from 'node:path'
import { findExecutable, isExecutable } from './executables.mjs'
import { fetchRelease } from './nats-release.mjs'
import { downloadFolder } from './paths.mjs'
import { SetupError, say, step } from './progress.mjs'
import { runQuietly } from './run-tool.mjs'

const cachedServer = path.join(downloadFolder, 'nats-server', 'nats-server')

/**
 * A nats-server that is already here: `KVASIR_NATS_SERVER`, PATH and the system's folders, the cache.
 * @param {Record<string, string | undefined>} [environment]
 * @returns {string | undefined}
 * @throws {SetupError} where KVASIR_NATS_SERVER names no program
 */
export function findNatsServer(environment = process.env) {
  const given = environment.KVASIR_NATS_SERVER
  if (given) {
    if (isExecutable(given)) return path.resolve(given)
    throw new SetupError(
      `KVASIR_NATS_SERVER is ${given}, which is not a program: correct it, or unset it to search for one.`,
    )
  }
  return (
    findExecutable('nats-server', environment.PATH) ?? (isExecutable(cachedServer) ? cachedServer : undefined)
  )
}

/**
 * Finds a nats-server, or gets one.
 * @returns {Promise<string>} its path
 * @throws {SetupError} saying what to do
 */
export async function obtainNatsServer() {
  const found = findNatsServer()
  if (found !== undefined) return found
  const folder = path.dirname(cachedServer)
  for (const { what, possible, get } of ways) {
    if (!possible()) continue
    const temporary = path.join(folder, `${process.pid}.${randomBytes(4).toString('hex')}.tmp`)
    try {
      mkdirSync(temporary, { recursive: true })
      await step(what, () => get(temporary))
      const binary = path.join(temporary, 'nats-server')
      if (existsSync(binary)) {
        chmodSync(binary, 0o755)
        renameSync(binary, cachedServer)
      }
      const server = findNatsServer()
      if (server !== undefined) return server
      say(`${what}: it brought no nats-server`)
    } catch (error) {
      say(error instanceof Error ? error.message : String(error))
    } finally {
      removeTemporary(folder, temporary)
    }
  }
  throw new SetupError(
    'nats-server is missing and could not be downloaded: install it (on Debian or Ubuntu: ' +
      '`apt-get install nats-server`), or set KVASIR_NATS_SERVER to its path, then try again.',
  )
}

/**
 * From the least to the most foreign. `get` puts the program into its folder, or into the system.
 * @type {{ what: string, possible: () => boolean, get: (folder: string) => Promise<void> }[]}
 */
const ways = [
  {
    what: "installing Debian's nats-server",
    possible: () => process.getuid?.() === 0 && findExecutable('apt-get') !== undefined,
    get: installPackage,
  },
  {
    what: "unpacking Debian's nats-server",
    possible: () => findExecutable('apt-get') !== undefined && findExecutable('dpkg-deb') !== undefined,
    get: unpackPackage,
  },
  {
    what: 'downloading the official nats-server',
    possible: () => true,
    get: (folder) => fetchRelease(folder),
  },
]

/** The package, system-wide, as root. */
async function installPackage() {
  const environment = { DEBIAN_FRONTEND: 'noninteractive' }
  const install = ['install', '--yes', '--no-install-recommends', '-qq', 'nats-server']
  try {
    await runQuietly('apt-get install nats-server', 'apt-get', install, { environment })
  } catch {
    // The package lists may be missing or old.
    await runQuietly('apt-get update', 'apt-get', ['update', '-qq'], { environment })
    await runQuietly('apt-get install nats-server', 'apt-get', install, { environment })
  }
}

/**
 * The package's files, as anyone, with lists and cache of our own.
 * @param {string} folder
 */
async function unpackPackage(folder) {
  const lists = path.join(folder, 'lists')
  const cache = path.join(folder, 'cache')
  mkdirSync(path.join(lists, 'partial'), { recursive: true })
  mkdirSync(path.join(cache, 'archives', 'partial'), { recursive: true })
  const options = [
    '-qq',
    '-o',
    `Dir::State::Lists=${lists}`,
    '-o',
    `Dir::Cache=${cache}`,
    '-o',
    'APT::Sandbox::User=',
  ]
  await runQuietly('apt-get update', 'apt-get', [...options, 'update'])
  await runQuietly('apt-get download', 'apt-get', [...options, 'download', 'nats-server'], { cwd: folder })
  const archive = readdirSync(folder).find((name) => name.endsWith('.deb'))
  if (archive === undefined) throw new SetupError('apt-get download brought no package.')
  const unpacked = path.join(folder, 'unpacked')
  await runQuietly('dpkg-deb', 'dpkg-deb', ['-x', path.join(folder, archive), unpacked])
  const binary = ['usr/sbin', 'usr/bin']
    .map((bin) => path.join(unpacked, bin, 'nats-server'))
    .find(existsSync)
  if (binary === undefined) throw new SetupError("Debian's package holds no nats-server.")
  renameSync(binary, path.join(folder, 'nats-server'))
}

/**
 * Removes this attempt's folder and those of attempts that were killed.
 * Only one set-up runs at a time, so no other attempt is alive.
 * @param {string} folder
 * @param {string} temporary
 */
function removeTemporary(folder, temporary) {
  rmSync(temporary, { recursive: true, force: true })
  if (!existsSync(folder)) return
  for (const name of readdirSync(folder)) {
    if (name.endsWith('.tmp')) rmSync(path.join(folder, name), { recursive: true, force: true })
  }
}
