/**
 * Installs the node packages that package-lock.json names, when they are missing or stale.
 *
 * Invariants: the stamp lies in node_modules and is written after npm succeeded. It counts while
 * every package that npm recorded still has its package.json. A mark lies there while npm runs;
 * finding it means that an installation was killed, so that packages may be half unpacked, and
 * node_modules is made anew.
 *
 * `npm install --no-save` and not `npm ci`: both take the versions and checksums of the lock
 * file, but `npm ci` refuses a lock file that was written on one platform and so lacks the
 * optional packages of others.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import path from 'node:path'
import { writeAtomic } from './atomic-file.mjs'
import { fingerprintOfContents, readStamp } from './fingerprint.mjs'
import { step } from './progress.mjs'
import { runQuietly } from './run-tool.mjs'

const installArguments = [
  'install',
  '--no-save',
  '--include=dev',
  '--loglevel=error',
  '--no-audit',
  '--no-fund',
]

/**
 * @typedef {object} LockedPackage
 * @property {string} [version]
 * @property {string} [integrity]
 * @property {boolean} [optional]
 * @property {Record<string, string>} [dependencies]
 * @property {Record<string, string>} [devDependencies]
 * @property {Record<string, string>} [bin]
 */

/**
 * @param {string} root
 * @param {string} stateFolder on the same disk
 * @returns {Promise<void>}
 */
export async function installPackages(root, stateFolder) {
  const modules = path.join(root, 'node_modules')
  const stampFile = path.join(modules, '.kvasir-stamp')
  const markFile = path.join(modules, '.kvasir-installing')
  const fingerprint = packagesFingerprint(root)
  const trash = path.join(stateFolder, 'trash')
  const killed = existsSync(markFile)
  const whole = !killed && everyPackageIsThere(root)
  if (whole && readStamp(stampFile) === fingerprint) return
  if (!whole || !installedAgreesWithLock(root)) {
    await step('installing node packages', async () => {
      rmSync(trash, { recursive: true, force: true })
      mkdirSync(stateFolder, { recursive: true })
      // Renamed before it is removed: a removal that is killed leaves no half of it in place.
      if (killed) renameSync(modules, trash)
      rmSync(stampFile, { force: true })
      writeAtomic(markFile, '')
      await runQuietly('installing node packages', 'npm', installArguments, { cwd: root })
      rmSync(markFile, { force: true })
      rmSync(trash, { recursive: true, force: true })
    })
  }
  writeAtomic(stampFile, fingerprint)
}

/**
 * Changes with the lock file, any workspace's package.json, npm's settings and the platform.
 * @param {string} root
 */
function packagesFingerprint(root) {
  const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
  const files = ['package.json', 'package-lock.json', '.npmrc']
  for (const workspace of manifest.workspaces ?? []) files.push(path.join(workspace, 'package.json'))
  return fingerprintOfContents(root, files, `${process.platform} ${process.arch}`)
}

/**
 * Whether what npm recorded as installed is there, as far as a look at each package's
 * package.json can tell.
 * @param {string} root
 */
function everyPackageIsThere(root) {
  const installed = readLock(path.join(root, 'node_modules', '.package-lock.json'))
  if (installed === undefined) return false
  return Object.keys(installed).every(
    (name) => !name.startsWith('node_modules/') || existsSync(path.join(root, name, 'package.json')),
  )
}

/**
 * Whether npm's own record of node_modules, written when an installation has succeeded, names
 * what the lock file names, and the lock file what the package.json files ask for: true after
 * a person ran `npm install`.
 * @param {string} root
 */
export function installedAgreesWithLock(root) {
  const installed = readLock(path.join(root, 'node_modules', '.package-lock.json'))
  const locked = readLock(path.join(root, 'package-lock.json'))
  if (installed === undefined || locked === undefined) return false
  for (const [name, wanted] of Object.entries(locked)) {
    if (!name.startsWith('node_modules/')) {
      const manifest = readJson(path.join(root, name, 'package.json'))
      if (wishesOf(wanted) !== wishesOf(manifest)) return false
      // npm's own record leaves the root out.
      if (name !== '' && wishesOf(wanted) !== wishesOf(installed[name])) return false
      continue
    }
    const have = installed[name]
    // A package for another platform is in the lock file and rightly not installed.
    if (have === undefined && wanted.optional) continue
    if (have?.version !== wanted.version || have?.integrity !== wanted.integrity) return false
  }
  return true
}

/**
 * What a workspace asks npm for, as comparable text.
 * @param {LockedPackage | undefined} workspace
 */
function wishesOf(workspace) {
  const { dependencies, devDependencies, bin } = workspace ?? {}
  return JSON.stringify(
    [dependencies, devDependencies, bin].map((wishes) => Object.entries(wishes ?? {}).sort()),
  )
}

/**
 * @param {string} file
 * @returns {Record<string, LockedPackage> | undefined} undefined where it is missing or unreadable
 */
function readLock(file) {
  return readJson(file)?.packages
}

/**
 * @param {string} file
 * @returns {any} undefined where it is missing or unreadable
 */
function readJson(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch {
    return undefined
  }
}
