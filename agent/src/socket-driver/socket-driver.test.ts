/** A driver behind a socket does what the driver does. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type DriverServer, startDriverServer } from '@kvasir/engine/driver-process/driver-server'
import { testConformance } from '@kvasir/engine/testing/register-conformance'
import { afterAll, beforeAll } from 'vitest'
import { FAKE_MODEL, FakeDriver } from '../testing/fake-driver.js'
import { connectSocketDriver } from './socket-driver.js'

const folder = mkdtempSync(join(tmpdir(), 'kvasir-driver-'))
const socketPath = join(folder, 'driver.sock')
let server: DriverServer

beforeAll(async () => {
  server = await startDriverServer(new FakeDriver(), { socketPath })
})
afterAll(async () => {
  await server.close()
  rmSync(folder, { recursive: true, force: true })
})

testConformance('The fake driver behind a socket', {
  create: () => connectSocketDriver({ socketPath, agent: 'test' }),
  model: FAKE_MODEL,
})
