/** CPU time of processes, from /proc; user and system, all threads. */
import { processStat } from '#setup/process-identity'

/** Unit of /proc/PID/stat on every Linux. */
const microsecondsPerTick = 10_000
const userField = 11
const systemField = 12

/** Microseconds in all; a process that has ended counts 0. */
export function cpuTimeUs(pids: readonly number[]): number {
  let ticks = 0
  for (const pid of pids) {
    const stat = processStat(pid)
    ticks += Number(stat?.[userField] ?? 0) + Number(stat?.[systemField] ?? 0)
  }
  return ticks * microsecondsPerTick
}
