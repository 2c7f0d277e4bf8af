/**
 * Ends this process when the npm that started it dies.
 *
 * `npm start` runs npm → sh → node, and killing npm leaves the other two alive with nobody
 * at the terminal. So a script that npm started watches every process up to that npm.
 */
import { readFileSync } from 'node:fs'
import { identify, isAlive, processStat } from './process-identity.mjs'

const pollMs = 300
const generationsMax = 12

/**
 * Processes between this one and the npm that started it, that npm included.
 * @param {number} parent
 * @param {Record<string, string | undefined>} environment
 * @returns {import('./process-identity.mjs').ProcessIdentity[]} empty where no npm is among them
 */
export function ancestorsUpToNpm(parent, environment) {
  if (environment.npm_lifecycle_event === undefined) return []
  const found = []
  for (let pid = parent; pid > 1 && found.length < generationsMax; ) {
    const stat = processStat(pid)
    if (stat === undefined) break
    found.push(identify(pid))
    if (isNpm(pid)) return found
    pid = Number(stat[1])
  }
  return []
}

/**
 * Calls `onGone` once when one of the ancestors has gone. The timer keeps no process alive.
 * @param {() => void} onGone
 * @returns {{ stop: () => void }}
 */
export function watchNpm(onGone) {
  const ancestors = ancestorsUpToNpm(process.ppid, process.env)
  if (ancestors.length === 0) return { stop: () => undefined }
  const timer = setInterval(() => {
    if (ancestors.every(isAlive)) return
    clearInterval(timer)
    onGone()
  }, pollMs)
  timer.unref()
  return { stop: () => clearInterval(timer) }
}

/** @param {number} pid */
function isNpm(pid) {
  try {
    // npm names its process "npm start" and the like; before that, it is node with npm-cli.js.
    const [program = '', script = ''] = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0')
    return /^npm(\s|$)/.test(program) || /\/npm(-cli\.js)?$/.test(script)
  } catch {
    return false
  }
}
