/** How much memory a process could take now: of the machine, and of the control group that it may be confined to. */
import { readFileSync } from 'node:fs'
import { totalmem } from 'node:os'
import { constrainedMemory } from 'node:process'

export interface MemorySources {
  /** Undefined where there is no such file. */
  read(path: string): string | undefined
  /** Limit of the control group; 0 or more than the machine has where there is none. */
  limitBytes(): number
  totalBytes(): number
}

const HERE: MemorySources = {
  read(path) {
    try {
      return readFileSync(path, 'utf8')
    } catch {
      return undefined
    }
  },
  limitBytes: constrainedMemory,
  totalBytes: totalmem,
}

export function availableMemoryBytes(sources: MemorySources = HERE): number {
  const totalBytes = sources.totalBytes()
  const told = /^MemAvailable:\s+(\d+) kB/m.exec(sources.read('/proc/meminfo') ?? '')?.[1]
  const machineBytes = told === undefined ? totalBytes : Number(told) * 1_024
  const limitBytes = sources.limitBytes()
  if (limitBytes === 0 || limitBytes >= totalBytes) return machineBytes
  return Math.min(machineBytes, Math.max(0, limitBytes - usedInGroup(sources)))
}

/** Without the file cache that the kernel gives back when memory is asked for. */
function usedInGroup({ read }: MemorySources): number {
  const path = /^0::(\/.*)$/m.exec(read('/proc/self/cgroup') ?? '')?.[1] ?? '/'
  for (const folder of [`/sys/fs/cgroup${path === '/' ? '' : path}`, '/sys/fs/cgroup']) {
    const used = Number(read(`${folder}/memory.current`) ?? Number.NaN)
    if (!Number.isFinite(used)) continue
    const cached = /^inactive_file (\d+)$/m.exec(read(`${folder}/memory.stat`) ?? '')?.[1] ?? 0
    return Math.max(0, used - Number(cached))
  }
  return 0
}
