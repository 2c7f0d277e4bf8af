/**
 * Reads the kernel's description of the machine (/proc, /sys, /etc) under any root.
 *
 * Nothing here throws: a file that is missing, unreadable or garbled is `undefined`, since a
 * machine that does not say something must still be described. Tests give a folder of files
 * as root; a container may give the host's mount.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import path from 'node:path'

export interface SystemFiles {
  /** Text of a file without surrounding white space; undefined where it cannot be read. */
  text(file: string): string | undefined
  /** Names in a folder, sorted; empty where it cannot be read. */
  names(folder: string): string[]
  /** Last part of a symbolic link's target; undefined where there is none. */
  linkName(file: string): string | undefined
}

export function systemFiles(root = '/'): SystemFiles {
  return {
    text: (file) => attempt(() => readFileSync(path.join(root, file), 'utf8').trim()),
    names: (folder) => attempt(() => readdirSync(path.join(root, folder)).sort()) ?? [],
    linkName: (file) => attempt(() => path.basename(readlinkSync(path.join(root, file)))),
  }
}

function attempt<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch {
    return undefined
  }
}

/** A decimal number that fills the whole text; undefined where it does not. */
export function wholeNumber(text: string | undefined): number | undefined {
  return text !== undefined && /^-?\d+$/.test(text) ? Number(text) : undefined
}
