/** A driver behind its socket is free for the next agent in time, whatever the one before it left behind. */
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { DriverModel, LoadModelOptions } from '@kvasir/engine/device-driver'
import { type DriverServerOptions, startDriverServer } from '@kvasir/engine/driver-process/driver-server'
import { EXACT } from '@kvasir/engine/numerics'
import { deferred } from '@kvasir/runtime/deferred'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { FAKE_MODEL, FakeDriver } from '../testing/fake-driver.js'
import { connectSocketDriver } from './socket-driver.js'

let folder: string
let socketPath: string
const opened: { close(): Promise<void> }[] = []

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvasir-driver-'))
  socketPath = join(folder, 'driver.sock')
})
afterEach(async () => {
  for (const one of opened.splice(0).reverse()) await one.close()
  rmSync(folder, { recursive: true, force: true })
})

async function serve(driver: FakeDriver, options: Partial<DriverServerOptions> = {}): Promise<void> {
  opened.push(await startDriverServer(driver, { socketPath, ...options }))
}

async function connected(): Promise<void> {
  opened.push(await connectSocketDriver({ socketPath, agent: 'test', connectMs: 5_000 }))
}

it('who connects and says nothing is let go, for others wait', async () => {
  const violated = deferred<string>()
  await serve(new FakeDriver(), { helloMs: 50, onViolation: (why) => violated.resolve(why) })
  await once(connect(socketPath), 'close')
  expect(await violated.promise).toBe('It did not say Hello.')
  await connected()
})

it('a model that was being loaded when its agent left is freed before the next agent is taken in', async () => {
  const loading = deferred<void>()
  const held = deferred<void>()
  const freed: string[] = []
  class Slow extends FakeDriver {
    override async loadModel(options: LoadModelOptions): Promise<DriverModel> {
      const model = await super.loadModel(options)
      loading.resolve()
      await held.promise
      return Object.assign(model, { unload: async () => void freed.push(options.model) })
    }
  }
  await serve(new Slow())
  const first = await connectSocketDriver({ socketPath, agent: 'first' })
  const load = first.loadModel({ model: FAKE_MODEL, numerics: EXACT, kvBlocksMax: 4 })
  const cancelled = expect(load).rejects.toMatchObject({ code: 'cancelled' })
  await loading.promise
  await first.close()
  await cancelled
  const early = connectSocketDriver({ socketPath, agent: 'early', connectMs: 150 })
  await expect(early).rejects.toThrow('serves another agent')
  held.resolve()
  await connected()
  expect(freed).toEqual([FAKE_MODEL])
})

it('those that were refused hold nothing, so that the driver can end', async () => {
  const server = await startDriverServer(new FakeDriver(), { socketPath })
  const first = await connectSocketDriver({ socketPath, agent: 'first' })
  const mute = connect(socketPath)
  await once(mute, 'connect')
  const early = connectSocketDriver({ socketPath, agent: 'early', connectMs: 150 })
  await expect(early).rejects.toThrow('serves another agent')
  await server.close()
  await expect(first.lost).resolves.toMatchObject({ code: 'unreachable' })
  mute.destroy()
})
