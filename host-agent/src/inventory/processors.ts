/** The CPU and its NUMA nodes, from /proc/cpuinfo and sysfs. */
import type { SystemFiles } from './system-files.js'

export interface Processors {
  /** As the kernel names it, or 'unknown CPU'. */
  readonly model: string
  /** Logical cores that are online; at least 1. */
  readonly cores: number
}

export interface NumaNode {
  readonly id: number
  /** Logical CPUs, such as 0-15,32-47; '' where the kernel does not say. */
  readonly cpus: string
  /** 0 where the kernel does not say. */
  readonly memoryBytes: number
}

/** Names of the line that holds the model, x86 first, then others. */
const modelKeys = ['model name', 'cpu model', 'Model', 'Hardware', 'uarch', 'cpu']

export function readProcessors(files: SystemFiles): Processors {
  const values = new Map<string, string>()
  let cores = 0
  for (const line of (files.text('proc/cpuinfo') ?? '').split('\n')) {
    const separator = line.indexOf(':')
    if (separator < 0) continue
    const key = line.slice(0, separator).trim()
    const value = line.slice(separator + 1).trim()
    if (key === 'processor' && /^\d+$/.test(value)) cores++
    if (!values.has(key) && value !== '') values.set(key, value)
  }
  const modelKey = modelKeys.find((key) => values.has(key))
  const model = modelKey === undefined ? undefined : values.get(modelKey)
  return { model: model ?? 'unknown CPU', cores: Math.max(1, cores) }
}

/** Sorted by id; one node with everything where the kernel names none. */
export function readNumaNodes(files: SystemFiles, memoryBytes: number): NumaNode[] {
  const folder = 'sys/devices/system/node'
  const nodes: NumaNode[] = []
  for (const name of files.names(folder)) {
    const id = /^node(\d+)$/.exec(name)?.[1]
    if (id === undefined) continue
    const total = /MemTotal:\s+(\d+) kB/.exec(files.text(`${folder}/${name}/meminfo`) ?? '')?.[1]
    nodes.push({
      id: Number(id),
      cpus: files.text(`${folder}/${name}/cpulist`) ?? '',
      memoryBytes: total === undefined ? 0 : Number(total) * 1024,
    })
  }
  if (nodes.length === 0)
    return [{ id: 0, cpus: files.text('sys/devices/system/cpu/online') ?? '', memoryBytes }]
  return nodes.sort((a, b) => a.id - b.id)
}
