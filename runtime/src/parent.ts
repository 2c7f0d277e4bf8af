/**
 * Ends a child with its parent where the kernel does not: looks whether the parent lives.
 *
 * A child started through `spawnChild` on Linux is killed by the kernel when its parent
 * dies; this is the fallback for other systems, and for a parent that died before the
 * kernel was told.
 */

/** Environment variable with the process id of the parent to watch. */
export const PARENT_VARIABLE = 'KVASIR_PARENT_PID'

const POLL_MS = 500

/** Calls `onGone` once when the parent named in the environment is gone. Does nothing without one. */
export function watchParent(onGone: () => void): () => void {
  const pid = Number(process.env[PARENT_VARIABLE])
  if (!Number.isInteger(pid) || pid <= 0) return () => {}
  // A parent's direct child is handed to another parent at its death, which no reuse of
  // process ids can hide.
  const direct = process.ppid === pid
  const timer = setInterval(() => {
    if (direct ? process.ppid === pid : isAlive(pid)) return
    clearInterval(timer)
    onGone()
  }, POLL_MS)
  timer.unref()
  return () => clearInterval(timer)
}

/** Whether a process of this id exists, a zombie included. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    // Another user's process exists all the same.
    return error instanceof Error && 'code' in error && error.code === 'EPERM'
  }
}
