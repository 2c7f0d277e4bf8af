/**
 * A real nats-server for tests: free port, JetStream in a temporary folder, and the
 * faults that tests need. It is the one that set-up found, and ends with the test's process.
 */
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Child, spawnChild } from '../child.js'
import { delay } from '../deferred.js'
import { UnavailableError } from '../errors.js'

export interface TestNatsServer {
  readonly url: string
  /** kill -9. */
  kill(): Promise<void>
  /** Starts it again on its port, with its store or an empty one. */
  start(options?: { readonly wipe?: boolean }): Promise<void>
  /** SIGSTOP and SIGCONT: alive, but silent. */
  freeze(): void
  thaw(): void
  /** Kills it and removes its store. */
  close(): Promise<void>
}

const START_MS = 5_000

export async function startNatsServer(): Promise<TestNatsServer> {
  const store = mkdtempSync(join(tmpdir(), 'kvasir-nats-'))
  const port = await freePort()
  let server: Child | undefined

  const kill = async () => {
    server?.kill('SIGKILL')
    await server?.exited
  }
  const start = async (options: { readonly wipe?: boolean } = {}) => {
    if (options.wipe === true) rmSync(store, { recursive: true, force: true })
    const program = process.env.KVASIR_NATS_SERVER ?? 'nats-server'
    server = spawnChild(program, ['-a', '127.0.0.1', '-p', String(port), '-js', '-sd', store])
    await untilListening(port, server)
  }
  await start()

  return {
    url: `nats://127.0.0.1:${port}`,
    kill,
    start,
    freeze: () => server?.kill('SIGSTOP'),
    thaw: () => server?.kill('SIGCONT'),
    async close() {
      await kill()
      rmSync(store, { recursive: true, force: true })
    },
  }
}

/** A port that nothing listens on at the moment. */
export async function freePort(): Promise<number> {
  const probe = createServer()
  probe.listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const address = probe.address()
  probe.close()
  await once(probe, 'close')
  return typeof address === 'object' && address !== null ? address.port : 0
}

async function untilListening(port: number, server: Child): Promise<void> {
  const endMs = performance.now() + START_MS
  while (performance.now() < endMs) {
    if (!server.running) throw new UnavailableError((await server.exited).reason)
    const socket = connect(port, '127.0.0.1')
    const connected = await Promise.race([
      once(socket, 'connect').then(
        () => true,
        () => false,
      ),
      delay(1_000).then(() => false),
    ])
    socket.destroy()
    if (connected) return
    await delay(20)
  }
  throw new UnavailableError(`nats-server does not listen on port ${port} after ${START_MS} ms.`)
}
