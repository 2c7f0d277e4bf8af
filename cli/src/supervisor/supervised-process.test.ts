import { deferred } from '@kvasir/runtime/deferred'
import type { Child, ChildExit } from '@kvasir/runtime/lifecycle'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { SupervisedProcess } from './supervised-process.js'

/** Stands in for a process: becomes ready and dies when told. */
class FakeChild {
  readonly ready = deferred<void>()
  readonly ended = deferred<ChildExit>()
  readonly signals: string[] = []
  readonly child: Child

  constructor(
    pid: number,
    private readonly onExit: (exit: ChildExit) => void,
  ) {
    this.child = {
      name: 'gpu-0',
      pid,
      running: true,
      ready: new Promise(() => {}),
      exited: this.ended.promise,
      kill: (signal = 'SIGTERM') => this.die(signal),
      stop: async () => {
        this.die('SIGTERM')
        return this.ended.promise
      },
    }
  }

  die(signal: NodeJS.Signals): void {
    if (this.ended.settled) return
    this.signals.push(signal)
    const exit = { code: null, signal, reason: `gpu-0 ended with signal ${signal}.` }
    this.ready.reject(new Error(exit.reason))
    this.ended.resolve(exit)
    this.onExit(exit)
  }
}

let children: FakeChild[]
let told: string[]

function supervised(restart: boolean): SupervisedProcess {
  return new SupervisedProcess({
    name: 'gpu-0',
    restart,
    launch: (onExit) => {
      const fake = new FakeChild(100 + children.length, onExit)
      children.push(fake)
      return { child: fake.child, ready: fake.ready.promise }
    },
    onDeath: (_, restartInMs) => told.push(`died, again in ${restartInMs}`),
    onRestarted: () => told.push('back'),
    onRestartFailed: (_, restartInMs) => told.push(`failed, again in ${restartInMs}`),
  })
}

async function started(restart: boolean): Promise<SupervisedProcess> {
  const process = supervised(restart)
  const starting = process.start()
  children[0]?.ready.resolve()
  await starting
  return process
}

beforeEach(() => {
  vi.useFakeTimers()
  children = []
  told = []
})
afterEach(() => {
  vi.useRealTimers()
})

test('a process that dies is started again, later and later', async () => {
  const process = await started(true)
  children[0]?.die('SIGKILL')
  expect([told, process.pid]).toEqual([['died, again in 250'], 0])
  await vi.advanceTimersByTimeAsync(250)
  children[1]?.die('SIGKILL')
  await vi.advanceTimersByTimeAsync(0)
  expect(told.at(-1)).toBe('failed, again in 500')
  await vi.advanceTimersByTimeAsync(500)
  children[2]?.ready.resolve()
  await vi.advanceTimersByTimeAsync(0)
  expect([told.at(-1), process.pid, children.length]).toEqual(['back', 102, 3])
})

test('a death before the first start has succeeded rejects it, and nothing is started again', async () => {
  const process = supervised(true)
  const starting = process.start()
  children[0]?.die('SIGKILL')
  await expect(starting).rejects.toThrow(/SIGKILL/)
  await vi.advanceTimersByTimeAsync(60_000)
  expect([children.length, told]).toEqual([1, []])
})

test('one that is not restarted is reported once', async () => {
  await started(false)
  children[0]?.die('SIGKILL')
  await vi.advanceTimersByTimeAsync(60_000)
  expect([children.length, told]).toEqual([1, ['died, again in undefined']])
})

test('after a stop nothing is started, whenever it comes', async () => {
  const running = await started(true)
  await running.stop(1_000)
  expect([children[0]?.signals, told]).toEqual([['SIGTERM'], []])

  children = []
  const pausing = await started(true)
  children[0]?.die('SIGKILL')
  await pausing.stop(1_000)
  await vi.advanceTimersByTimeAsync(60_000)
  expect(children).toHaveLength(1)

  children = []
  const starting = supervised(true)
  const start = starting.start()
  const stopped = starting.stop(1_000)
  await expect(start).rejects.toThrow(/SIGTERM/)
  await stopped
  expect(children).toHaveLength(1)
})
