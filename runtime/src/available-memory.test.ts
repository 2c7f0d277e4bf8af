import { expect, it } from 'vitest'
import { availableMemoryBytes, type MemorySources } from './available-memory.js'

const GIB = 1 << 30
const machine = (files: Readonly<Record<string, string>>, limitBytes = 0): MemorySources => ({
  read: (path) => files[path],
  limitBytes: () => limitBytes,
  totalBytes: () => 16 * GIB,
})
const meminfo = { '/proc/meminfo': `MemTotal: 16777216 kB\nMemAvailable:    8388608 kB\n` }

it('is what the machine has available', () => {
  expect(availableMemoryBytes(machine(meminfo))).toBe(8 * GIB)
  // Some systems say that there is no limit by a number larger than any memory.
  expect(availableMemoryBytes(machine(meminfo, 2 ** 63))).toBe(8 * GIB)
})

it('is what is left of the limit of the control group, whose file cache can be had back', () => {
  const group = {
    ...meminfo,
    '/proc/self/cgroup': '0::/agents/one\n',
    '/sys/fs/cgroup/agents/one/memory.current': `${3 * GIB}\n`,
    '/sys/fs/cgroup/agents/one/memory.stat': `anon 1\ninactive_file ${GIB}\n`,
  }
  expect(availableMemoryBytes(machine(group, 4 * GIB))).toBe(2 * GIB)
  expect(availableMemoryBytes(machine(group, 15 * GIB))).toBe(8 * GIB)
  expect(availableMemoryBytes(machine(group, GIB))).toBe(0)
})

it('is all there is where the system does not tell what is available', () => {
  expect(availableMemoryBytes(machine({}))).toBe(16 * GIB)
})

it('is some on this machine', () => {
  expect(availableMemoryBytes()).toBeGreaterThan(0)
})
