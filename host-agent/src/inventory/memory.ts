/**
 * Main memory, from /proc/meminfo and the memory limit of the control group.
 *
 * A container sees the whole machine in /proc/meminfo; what it may use is the limit.
 */
import type { SystemFiles } from './system-files.js'

export interface MainMemory {
  /** Of the machine, bytes; 0 where the kernel does not say. */
  readonly totalBytes: number
  /** Usable without swapping now, within the control group's limit, bytes; 0 where unknown. */
  readonly availableBytes: number
  /** Limit of the control group, bytes; undefined where there is none. */
  readonly limitBytes: number | undefined
}

export function readMemory(files: SystemFiles): MainMemory {
  const meminfo = files.text('proc/meminfo') ?? ''
  const totalBytes = kilobytes(meminfo, 'MemTotal')
  const available = kilobytes(meminfo, 'MemAvailable')
  const limit = groupLimit(files, totalBytes)
  return {
    totalBytes,
    availableBytes: limit === undefined ? available : Math.min(available, limit.freeBytes),
    limitBytes: limit?.limitBytes,
  }
}

function kilobytes(meminfo: string, key: string): number {
  const match = new RegExp(`^${key}:\\s+(\\d+) kB$`, 'm').exec(meminfo)
  return match === null ? 0 : Number(match[1]) * 1024
}

/** Version 2 of control groups, else version 1; a limit above the machine's memory is none. */
function groupLimit(
  files: SystemFiles,
  totalBytes: number,
): { limitBytes: number; freeBytes: number } | undefined {
  const [limitText, usedText] =
    files.text('sys/fs/cgroup/memory.max') === undefined
      ? [
          files.text('sys/fs/cgroup/memory/memory.limit_in_bytes'),
          files.text('sys/fs/cgroup/memory/memory.usage_in_bytes'),
        ]
      : [files.text('sys/fs/cgroup/memory.max'), files.text('sys/fs/cgroup/memory.current')]
  if (limitText === undefined || !/^\d+$/.test(limitText)) return undefined
  const limitBytes = Number(limitText)
  if (totalBytes > 0 && limitBytes >= totalBytes) return undefined
  const usedBytes = usedText !== undefined && /^\d+$/.test(usedText) ? Number(usedText) : 0
  return { limitBytes, freeBytes: Math.max(0, limitBytes - usedBytes) }
}
