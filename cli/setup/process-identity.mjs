/**
 * Names a process so that a reused process id is not taken for it: id and start time.
 *
 * Where the system does not tell start times (no /proc), the start is '' and only the id counts.
 */
import { readFileSync } from 'node:fs'

/**
 * @typedef {object} ProcessIdentity
 * @property {number} pid
 * @property {string} start clock ticks since boot as the kernel gives them, or ''
 */

/**
 * Fields of /proc/PID/stat after the command name: [0] state, [1] parent's id, …
 * @param {number} pid
 * @returns {string[] | undefined} undefined where the process or /proc does not exist
 */
export function processStat(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // The command name may hold spaces and parentheses: its end is the last parenthesis.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  } catch {
    return undefined
  }
}

/**
 * @param {number} pid
 * @returns {ProcessIdentity}
 */
export function identify(pid) {
  return { pid, start: processStat(pid)?.[19] ?? '' }
}

/**
 * Whether the process that was identified still runs. A zombie does not.
 * @param {ProcessIdentity} identity
 */
export function isAlive({ pid, start }) {
  if (!Number.isInteger(pid) || pid <= 0) return false
  if (start !== '') {
    const stat = processStat(pid)
    return stat !== undefined && stat[19] === start && stat[0] !== 'Z' && stat[0] !== 'X'
  }
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code === 'EPERM'
  }
}
