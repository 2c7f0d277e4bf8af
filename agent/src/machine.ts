/** The basic facts of the machine that the operating system tells. */
import { readFileSync } from 'node:fs'
import { availableParallelism, cpus, hostname, totalmem } from 'node:os'
import type { Machine } from '@kvasir/proto/kvasir/capability/v1/capability'

export function basicMachine(): Machine {
  return {
    id: machineId(),
    hostname: hostname(),
    cpuModel: cpus()[0]?.model.trim() ?? 'unknown',
    cpuCores: availableParallelism(),
    numaNodes: 1,
    memoryBytes: BigInt(totalmem()),
    pciDevices: [],
  }
}

/** systemd's machine id; the host name where there is none. */
function machineId(): string {
  try {
    const id = readFileSync('/etc/machine-id', 'utf8').trim()
    return id === '' ? hostname() : id
  } catch {
    return hostname()
  }
}
