/**
 * A lock between processes that outlives no holder: one that was killed holds nothing.
 *
 * A lock is a folder of files named by a counter; the highest belongs to the last holder.
 * Invariants:
 * L1 A file is created complete and exclusively, so each number has one owner.
 * L2 The lock is free when the highest file says `released` or its owner is dead; it is
 *    taken by creating the next number, never by removing another's file.
 * L3 Only lower numbers are ever removed, so a slow contender that creates a number already
 *    passed finds a higher one when it looks again, and tries anew.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { createAtomic, writeAtomic } from './atomic-file.mjs'
import { identify, isAlive } from './process-identity.mjs'

/**
 * @typedef {object} HeldLock
 * @property {() => void} release idempotent
 */

/**
 * Takes the lock, or says which process holds it.
 * @param {string} folder
 * @returns {HeldLock | { heldBy: number }}
 */
export function tryLock(folder) {
  mkdirSync(folder, { recursive: true })
  for (;;) {
    const highest = highestNumber(folder)
    const holder = highest === 0 ? undefined : readHolder(folder, highest)
    if (holder !== undefined && isAlive(holder)) return { heldBy: holder.pid }
    const mine = highest + 1
    if (!createAtomic(numberFile(folder, mine), JSON.stringify(identify(process.pid)))) continue
    if (highestNumber(folder) !== mine) {
      rmSync(numberFile(folder, mine), { force: true })
      continue
    }
    for (const number of numbers(folder)) {
      if (number < mine) rmSync(numberFile(folder, number), { force: true })
    }
    return { release: () => giveFree(numberFile(folder, mine)) }
  }
}

/**
 * Who has the lock now; takes nothing and writes nothing.
 * @param {string} folder
 * @returns {import('./process-identity.mjs').ProcessIdentity | undefined} undefined where it is free
 */
export function lockHolder(folder) {
  if (!existsSync(folder)) return undefined
  const highest = highestNumber(folder)
  const holder = highest === 0 ? undefined : readHolder(folder, highest)
  return holder !== undefined && isAlive(holder) ? holder : undefined
}

/**
 * Takes the lock, waiting for its holder.
 * @param {string} folder
 * @param {{ deadlineMs: number, onWait: (pid: number) => void }} options `onWait` is called once
 * @returns {Promise<HeldLock>}
 */
export async function waitForLock(folder, { deadlineMs, onWait }) {
  const end = performance.now() + deadlineMs
  for (let told = false; ; ) {
    const result = tryLock(folder)
    if ('release' in result) return result
    if (!told) onWait(result.heldBy)
    told = true
    if (performance.now() > end) {
      throw new Error(
        `Process ${result.heldBy} has held the lock ${folder} for too long: end it, then try again.`,
      )
    }
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

/**
 * On a disk that is full, the lock becomes free with the end of this process instead.
 * @param {string} file
 */
function giveFree(file) {
  try {
    writeAtomic(file, 'released')
  } catch {}
}

/**
 * @param {string} folder
 * @param {number} number
 */
function numberFile(folder, number) {
  return path.join(folder, String(number))
}

/** @param {string} folder */
function numbers(folder) {
  return readdirSync(folder)
    .filter((name) => /^[1-9]\d*$/.test(name))
    .map(Number)
}

/** @param {string} folder */
function highestNumber(folder) {
  return Math.max(0, ...numbers(folder))
}

/**
 * The holder, or undefined where it released the lock or its file has gone.
 * @param {string} folder
 * @param {number} number
 * @returns {import('./process-identity.mjs').ProcessIdentity | undefined}
 */
function readHolder(folder, number) {
  try {
    const holder = JSON.parse(readFileSync(numberFile(folder, number), 'utf8'))
    return { pid: Number(holder.pid), start: String(holder.start) }
  } catch {
    return undefined
  }
}
