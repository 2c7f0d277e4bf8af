/** Finds programs the way a shell does, and in the folders that a plain user's PATH leaves out. */
import { accessSync, constants, statSync } from 'node:fs'
import path from 'node:path'

const extraFolders = ['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/local/bin', '/usr/bin', '/bin']

/** @param {string} file */
export function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK)
    return statSync(file).isFile()
  } catch {
    return false
  }
}

/**
 * @param {string} name
 * @param {string} [searchPath]
 * @returns {string | undefined} absolute path
 */
export function findExecutable(name, searchPath = process.env.PATH ?? '') {
  const folders = searchPath.split(path.delimiter).filter((folder) => path.isAbsolute(folder))
  for (const folder of [...folders, ...extraFolders]) {
    const file = path.join(folder, name)
    if (isExecutable(file)) return file
  }
  return undefined
}
