import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, afterEach, describe, expect, test } from 'vitest'
import { delay } from './deferred.js'
import { DeadlineError, UnavailableError } from './errors.js'
import { awaitReady, type Child, type SpawnOptions, spawnChild } from './lifecycle.js'

/** Built: children are plain Node processes. */
const script = fileURLToPath(new URL('../dist/testing/process.js', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'kvasir-lifecycle-'))
const children: Child[] = []
let files = 0

afterEach(async () => {
  for (const child of children.splice(0)) await child.stop(0)
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function start(behaviour: string, options: SpawnOptions = {}): Child & { output(): string } {
  files += 1
  const logFile = join(folder, 'new', `${files}.log`)
  const child = spawnChild(process.execPath, [script, behaviour], { logFile, name: 'agent', ...options })
  children.push(child)
  return Object.assign(child, { output: () => readFileSync(logFile, 'utf8') })
}

async function failure(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise
  } catch (error) {
    return error
  }
  throw new Error('expected a failure')
}

/** Whether a process runs; one that ended and was not waited for does not. */
function runs(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

async function until(check: () => boolean, ms: number): Promise<void> {
  const endMs = performance.now() + ms
  while (!check()) {
    if (performance.now() > endMs) throw new DeadlineError(`not within ${ms} ms`)
    await delay(10)
  }
}

describe('a process', () => {
  test('says that it is ready, drains at SIGTERM, then closes', async () => {
    const child = start('serve')
    expect(await awaitReady(child, 5_000)).toMatchObject({ ready: true, pid: child.pid })
    expect(child.running).toBe(true)
    expect(await child.stop(5_000)).toMatchObject({ code: 0, signal: null })
    expect(child.output().split('\n').slice(1)).toEqual(['draining for at most 300 ms', 'closed', ''])
    expect(child.running).toBe(false)
  })

  test('whose drain does not end closes all the same', async () => {
    const child = start('stuck-drain')
    await awaitReady(child, 5_000)
    expect(await child.stop(5_000)).toMatchObject({ code: 0 })
    expect(child.output()).toContain('closed')
  })

  test('ends at once at the second signal', async () => {
    const child = start('stuck-drain')
    await awaitReady(child, 5_000)
    child.kill('SIGINT')
    await until(() => child.output().includes('draining'), 5_000)
    child.kill('SIGINT')
    expect(await child.exited).toMatchObject({ code: 130 })
    expect(child.output()).not.toContain('closed')
  })

  test('ends when it is told to during its start', async () => {
    const child = start('slow-start')
    await until(() => child.output().includes('starting'), 5_000)
    expect(await child.stop(5_000)).toMatchObject({ code: 0 })
    expect(await failure(awaitReady(child, 1_000))).toBeInstanceOf(UnavailableError)
  })

  test('whose start fails says why in one sentence', async () => {
    const child = start('fail-start')
    const error = await failure(awaitReady(child, 5_000))
    expect(error).toBeInstanceOf(UnavailableError)
    expect(error).toMatchObject({
      message: 'agent ended with exit code 1: test-process: The model is missing: give --model.',
    })
  })

  test('that cannot go on frees everything and says why in one sentence', async () => {
    const child = start('broken')
    expect(await child.exited).toMatchObject({ code: 1 })
    expect(child.output()).toContain('test-process: The device is gone.\n')
    expect(child.output()).toContain('closed')
  })

  test.each([
    ['crash', 'test-process: Unexpected error: a bug'],
    ['reject', 'test-process: Unexpected error: a forgotten promise'],
  ])('ends by an error nobody caught (%s) with one sentence', async (behaviour, sentence) => {
    const exit = await start(behaviour).exited
    expect(exit).toMatchObject({ code: 1 })
    expect(exit.reason).toContain(sentence)
  })
})

describe('a child', () => {
  test('that cannot be started gives a reason', async () => {
    const child = spawnChild('/nonexistent/kvasir-program', [])
    children.push(child)
    expect(await failure(awaitReady(child, 5_000))).toMatchObject({
      message: expect.stringContaining('/nonexistent/kvasir-program'),
    })
  })

  test('tells its end once, and is killed when it does not end in time', async () => {
    const exits: unknown[] = []
    const child = spawnChild('sh', ['-c', 'trap "" TERM; echo "{\\"ready\\":true}"; sleep 60 & wait; wait'], {
      onExit: (exit) => exits.push(exit.signal),
    })
    children.push(child)
    await awaitReady(child, 5_000)
    expect((await child.stop(50)).signal).toBe('SIGKILL')
    expect(exits).toEqual(['SIGKILL'])
  })

  test('has a session of its own, so that Ctrl-C does not reach it', async () => {
    const child = start('serve')
    await awaitReady(child, 5_000)
    const fields = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
    expect(Number(fields[2])).toBe(child.pid)
  })

  test('dies with a parent that is killed by kill -9', async () => {
    const parent = start('parent')
    const { childPid } = await awaitReady(parent, 5_000)
    expect(runs(Number(childPid))).toBe(true)
    parent.kill('SIGKILL')
    await until(() => !runs(Number(childPid)), 400)
  })

  test('dies with its parent where the kernel does not help', async () => {
    // Without a PATH there is no setpriv.
    const parent = start('parent', { env: { PATH: '' } })
    const { childPid } = await awaitReady(parent, 5_000)
    expect(runs(Number(childPid))).toBe(true)
    parent.kill('SIGKILL')
    await until(() => !runs(Number(childPid)), 3_000)
  })
})
