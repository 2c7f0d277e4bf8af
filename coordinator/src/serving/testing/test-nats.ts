/**
 * The real nats-server for tests, on a port and a store of the test's own.
 */
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { type Child, spawnChild } from '@kvasir/runtime/child'
import { cacheFolder } from '@kvasir/runtime/state-folder'

export interface TestNats {
  readonly url: string
  /** kill -9. */
  kill(): Promise<void>
  /** The same address again, with an empty store. */
  restart(): Promise<void>
  close(): Promise<void>
}

export async function startTestNats(): Promise<TestNats> {
  const folder = await mkdtemp(join(tmpdir(), 'kvasir-nats-'))
  const port = await freePort()
  let lives = 0
  let child: Child | undefined
  const start = (): void => {
    lives += 1
    const store = join(folder, `life-${lives}`)
    child = spawnChild(natsServerPath(), ['-a', '127.0.0.1', '-p', String(port), '-js', '-sd', store])
  }
  const kill = async (): Promise<void> => {
    child?.kill('SIGKILL')
    await child?.exited
  }
  start()
  return {
    url: `nats://127.0.0.1:${port}`,
    kill,
    async restart() {
      await kill()
      start()
    },
    async close() {
      await kill()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

function natsServerPath(): string {
  const folders = [
    ...(process.env.PATH ?? '').split(delimiter),
    '/usr/sbin',
    join(cacheFolder(), 'nats-server'),
  ]
  const found = folders.map((folder) => join(folder, 'nats-server')).find((path) => existsSync(path))
  if (!found) throw new Error('There is no nats-server on this machine: run "npm run setup" first.')
  return found
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0))
    })
  })
}
