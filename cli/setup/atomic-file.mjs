/** Files that are either as before or complete, whenever the writer is killed. */
import { randomBytes } from 'node:crypto'
import { linkSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'

/**
 * Replaces a file, creating its folder.
 * @param {string} file
 * @param {string} text
 */
export function writeAtomic(file, text) {
  const temporary = writeBeside(file, text)
  renameSync(temporary, file)
}

/**
 * Creates a file with its content, or returns false where it exists.
 * @param {string} file
 * @param {string} text
 */
export function createAtomic(file, text) {
  const temporary = writeBeside(file, text)
  try {
    linkSync(temporary, file)
    return true
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code === 'EEXIST') return false
    throw error
  } finally {
    rmSync(temporary, { force: true })
  }
}

/**
 * @param {string} file
 * @param {string} text
 */
function writeBeside(file, text) {
  mkdirSync(path.dirname(file), { recursive: true })
  const temporary = `${file}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`
  try {
    writeFileSync(temporary, text)
  } catch (error) {
    rmSync(temporary, { force: true })
    throw error
  }
  return temporary
}
