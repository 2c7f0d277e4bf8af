/**
 * A process for the tests of lifecycle: behaves as its first argument says.
 */
import { writeSync } from 'node:fs'
import { delay } from '../deferred.js'
import { UnavailableError } from '../errors.js'
import { announceReady, awaitReady, type Running, runProcess, spawnChild } from '../lifecycle.js'

const behaviour = process.argv[2]
// Synchronous, so that lines written just before an exit arrive.
const say = (line: string) => writeSync(2, `${line}\n`)

const running: Running = {
  async drain(deadlineMs) {
    say(`draining for at most ${deadlineMs} ms`)
    if (behaviour === 'stuck-drain') await new Promise(() => {})
  },
  async close() {
    say('closed')
  },
}

runProcess({
  name: 'test-process',
  drainMs: 300,
  async start(context) {
    switch (behaviour) {
      case 'fail-start':
        say('a line before it')
        throw new UnavailableError('The model is missing:\ngive --model.')
      case 'slow-start':
        say('starting')
        await delay(60_000, context.signal)
        throw context.signal.reason
      case 'crash':
        setImmediate(() => {
          throw new Error('a bug')
        })
        break
      case 'reject':
        void Promise.reject(new Error('a forgotten promise'))
        break
      case 'broken':
        setImmediate(() => context.stop(new UnavailableError('The device is gone.')))
        break
      case 'parent': {
        const child = spawnChild(process.execPath, [process.argv[1] ?? '', 'serve'])
        const facts = await awaitReady(child, 5_000)
        announceReady({ childPid: facts.pid })
        return running
      }
      default:
        break
    }
    announceReady({ pid: process.pid, parent: process.env.KVASIR_PARENT_PID })
    return running
  },
})
// What a server would do: keep the process up.
setInterval(() => {}, 60_000)
