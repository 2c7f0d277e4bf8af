/** What the start of a driver's process does to the sockets that are there. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { startDriverChild } from './driver-child.js'

/** Beyond the ids that a kernel gives. */
const NO_PROCESS = 2 ** 30
let home: string

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'kv-'))
  vi.stubEnv('KVASIR_HOME', home)
})
afterEach(() => {
  vi.unstubAllEnvs()
  rmSync(home, { recursive: true, force: true })
})

it('removes what killed agents of the same device left, and nothing of other devices', async () => {
  const folder = join(home, 'run')
  const others = [`driver-fpga-0-${process.pid}.sock`, `driver-fpga-0-${NO_PROCESS}.sock`, 'cluster.json']
  mkdirSync(folder)
  for (const file of [...others, `driver-fpga-${NO_PROCESS}.sock`]) writeFileSync(join(folder, file), '')
  const { child, socketPath } = startDriverChild('true', 'fpga')
  await child.exited
  expect(socketPath).toBe(join(folder, `driver-fpga-${process.pid}.sock`))
  expect(readdirSync(folder).sort()).toEqual([...others].sort())
})
