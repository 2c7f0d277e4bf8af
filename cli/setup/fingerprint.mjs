/**
 * Tells whether files changed since a step last succeeded, without reading them.
 *
 * The fingerprint of a tree covers each file's path, size and modification time: a deleted,
 * renamed or edited file changes it. At worst it changes for nothing and a step runs again.
 */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import path from 'node:path'

/**
 * Every file under a folder, relative to it, sorted; empty where the folder does not exist.
 * @param {string} folder
 * @returns {string[]}
 */
export function filesUnder(folder) {
  if (!existsSync(folder)) return []
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)))
    .sort()
}

/**
 * @param {string} root
 * @param {string[]} files relative to `root`
 * @returns {string}
 */
export function fingerprintOfTimes(root, files) {
  const hash = createHash('sha256')
  for (const file of files) {
    const { size, mtimeMs } = statSync(path.join(root, file))
    hash.update(`${file}\0${size}\0${mtimeMs}\0`)
  }
  return hash.digest('hex')
}

/**
 * @param {string} root
 * @param {string[]} files relative to `root`; a missing one counts as such
 * @param {string} salt what else decides
 * @returns {string}
 */
export function fingerprintOfContents(root, files, salt) {
  const hash = createHash('sha256').update(salt)
  for (const file of files) {
    const name = path.join(root, file)
    hash.update(`\0${file}\0`).update(existsSync(name) ? readFileSync(name) : 'missing')
  }
  return hash.digest('hex')
}

/**
 * @param {string} file
 * @returns {string | undefined}
 */
export function readStamp(file) {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return undefined
  }
}
