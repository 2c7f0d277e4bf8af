import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { lockHolder, tryLock, waitForLock } from '#setup/lock'
import { identify, isAlive } from '#setup/process-identity'

let folder: string

beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'kvasir-lock-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

function take(): { release: () => void } {
  const lock = tryLock(folder)
  if ('heldBy' in lock) throw new Error(`held by ${lock.heldBy}`)
  return lock
}

test('one holder at a time; released, it can be taken again', () => {
  const lock = take()
  expect(tryLock(folder)).toEqual({ heldBy: process.pid })
  expect(lockHolder(folder)).toEqual(identify(process.pid))
  lock.release()
  expect(lockHolder(folder)).toBeUndefined()
  take().release()
  expect(readdirSync(folder)).toHaveLength(1)
})

test('a lock whose holder was killed is free', async () => {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'])
  await once(child, 'spawn')
  writeFileSync(path.join(folder, '7'), JSON.stringify(identify(child.pid ?? 0)))
  expect(tryLock(folder)).toEqual({ heldBy: child.pid })
  child.kill('SIGKILL')
  await once(child, 'exit')
  expect(lockHolder(folder)).toBeUndefined()
  take()
})

test('a lock of a process id that another process has now is free', () => {
  writeFileSync(path.join(folder, '1'), JSON.stringify({ pid: process.pid, start: '1' }))
  take()
})

test('a damaged lock file is free, and a number passed by is not taken', () => {
  writeFileSync(path.join(folder, '3'), 'half a li')
  take()
  expect(readdirSync(folder)).toEqual(['4'])
})

test('waiting ends with the holder, or with a sentence at the deadline', async () => {
  const lock = take()
  const waits: number[] = []
  const options = { deadlineMs: 150, onWait: (pid: number) => waits.push(pid) }
  await expect(waitForLock(folder, options)).rejects.toThrow(/too long/)
  expect(waits).toEqual([process.pid])
  const waiting = waitForLock(folder, { ...options, deadlineMs: 10_000 })
  lock.release()
  ;(await waiting).release()
})

test('many contenders in processes of their own: each holds it alone', { timeout: 20_000 }, async () => {
  const lockModule = new URL('../../setup/lock.mjs', import.meta.url).href
  const log = path.join(folder, 'log')
  const script = `
    import { appendFileSync } from 'node:fs'
    const { waitForLock } = await import(${JSON.stringify(lockModule)})
    for (let i = 0; i < 5; i++) {
      const lock = await waitForLock(${JSON.stringify(path.join(folder, 'lock'))}, { deadlineMs: 15000, onWait() {} })
      appendFileSync(${JSON.stringify(log)}, 'in ')
      await new Promise((done) => setTimeout(done, 2))
      appendFileSync(${JSON.stringify(log)}, 'out ')
      lock.release()
    }`
  const children = Array.from({ length: 4 }, () =>
    spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'inherit' }),
  )
  const codes = await Promise.all(children.map(async (child) => (await once(child, 'exit'))[0]))
  expect(codes).toEqual([0, 0, 0, 0])
  expect(readFileSync(log, 'utf8')).toBe('in out '.repeat(20))
})

test('a process is alive until it has ended, and not as a zombie', async () => {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'])
  await once(child, 'spawn')
  const identity = identify(child.pid ?? 0)
  expect(isAlive(identity)).toBe(true)
  expect(isAlive({ ...identity, start: `${identity.start}1` })).toBe(false)
  child.kill('SIGKILL')
  await once(child, 'exit')
  expect(isAlive(identity)).toBe(false)
})
