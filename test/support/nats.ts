/** The real nats-server for tests: found as the set-up finds it, on a port and a store of the test's own. */
import { existsSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { type Child, spawnChild } from '@kvasir/runtime/child'
import { cacheFolder } from '@kvasir/runtime/state-folder'

export function natsServerPath(): string {
  const candidates = [
    process.env.KVASIR_NATS_SERVER,
    ...(process.env.PATH ?? '').split(':').map((folder) => join(folder, 'nats-server')),
    '/usr/sbin/nats-server',
    join(cacheFolder(), 'nats-server', 'nats-server'),
  ]
  const found = candidates.find((path) => path && existsSync(path))
  if (!found) throw new Error('no nats-server found: run "npm run setup" first')
  return found
}

export async function freePort(): Promise<number> {
  return new Promise((done, fail) => {
    const server = createServer()
    server.once('error', fail)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => done(typeof address === 'object' && address ? address.port : 0))
    })
  })
}

/** Resolves when the server accepts connections; rejects when it ends before. */
export async function startNats(path: string, port: number, storeFolder: string): Promise<Child> {
  const child = spawnChild(path, ['-a', '127.0.0.1', '-p', String(port), '-js', '-sd', storeFolder])
  const end = Date.now() + 10_000
  while (!(await accepts(port))) {
    if (!child.running) throw new Error(`nats-server ended at once; is port ${port} taken?`)
    if (Date.now() > end) throw new Error('nats-server did not listen within 10 s')
    await new Promise((done) => setTimeout(done, 20))
  }
  return child
}

function accepts(port: number): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => {
      socket.destroy()
      done(true)
    })
    socket.once('error', () => done(false))
  })
}
