/** The driver's side of the socket: one agent at a time, and nothing of it is left when it has gone. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type DriverServer, startDriverServer } from '@kvasir/engine/driver-process/driver-server'
import { EXACT } from '@kvasir/engine/numerics'
import { deferred, withDeadline } from '@kvasir/runtime/deferred'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { FAKE_MODEL, FakeDriver } from '../testing/fake-driver.js'
import { connectSocketDriver } from './socket-driver.js'

let folder: string
let socketPath: string
let server: DriverServer | undefined
const violations: string[] = []

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvasir-driver-'))
  socketPath = join(folder, 'driver.sock')
  violations.length = 0
})
afterEach(async () => {
  await server?.close()
  server = undefined
  rmSync(folder, { recursive: true, force: true })
})

async function serve(driver = new FakeDriver()): Promise<void> {
  server = await startDriverServer(driver, { socketPath, onViolation: (why) => violations.push(why) })
}

const agent = () => connectSocketDriver({ socketPath, agent: 'test', connectMs: 5_000 })

test('an agent that leaves in the middle of a step leaves nothing behind', async () => {
  const reached = deferred<void>()
  const unloaded = deferred<void>()
  const driver = new FakeDriver({
    async beforeLayer(layer) {
      if (layer === 1) reached.resolve()
      await new Promise((resolve) => setImmediate(resolve))
    },
  })
  const load = driver.loadModel.bind(driver)
  driver.loadModel = async (options) => {
    const model = await load(options)
    const unload = model.unload.bind(model)
    model.unload = async () => {
      await unload()
      unloaded.resolve()
    }
    return model
  }
  await serve(driver)
  const first = await agent()
  const model = await first.loadModel({ model: FAKE_MODEL, numerics: EXACT, kvBlocksMax: 4 })
  const sequence = { blocks: Uint32Array.of(0), start: 0, tokens: Uint32Array.of(1), wantLogits: true }
  const ended = expect(model.step([sequence])).rejects.toMatchObject({ code: 'cancelled' })
  await reached.promise
  await first.close()
  await ended
  await withDeadline(unloaded.promise, 2_000, 'waiting for the end of the model')
  const second = await agent()
  const again = await second.loadModel({ model: FAKE_MODEL, numerics: EXACT, kvBlocksMax: 4 })
  expect((await again.step([sequence])).cancelled).toBe(false)
  await second.close()
})

test('a second agent is told that the device is taken, and gets it when the first has left', async () => {
  await serve()
  const first = await agent()
  const impatient = connectSocketDriver({ socketPath, agent: 'test', connectMs: 150 })
  await expect(impatient).rejects.toThrow(/serves another agent/)
  const patient = agent()
  await first.close()
  const second = await patient
  expect(second.describe().name).toBe('fake')
  await second.close()
})

test.each([
  ['lengths that no frame has', Buffer.alloc(16, 255), /A frame of/],
  ['another request than Hello first', Buffer.from([4, 0, 0, 0, 0, 0, 0, 0, 8, 1, 34, 0]), /must be Hello/],
  ['bytes that are no request', Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 255, 255]), /./],
])('whoever sends %s is let go, and the next one is served', async (_, bytes, why) => {
  await serve()
  const socket = connect(socketPath)
  const closed = deferred<void>()
  socket.on('error', () => {})
  socket.on('close', () => closed.resolve())
  socket.write(bytes)
  await withDeadline(closed.promise, 2_000, 'waiting to be let go')
  const next = await agent()
  expect(violations).toEqual([expect.stringMatching(why)])
  await next.close()
})

test('a socket that nobody listens on is replaced; one that somebody does is not', async () => {
  writeFileSync(socketPath, '')
  await serve()
  await expect(startDriverServer(new FakeDriver(), { socketPath })).rejects.toThrow(/Another driver listens/)
  await (await agent()).close()
})
