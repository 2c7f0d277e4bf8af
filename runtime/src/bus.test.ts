import { Kvm } from '@nats-io/kv'
import { Svcm } from '@nats-io/services'
import { connect } from '@nats-io/transport-node'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { type BucketEntry, type Bus, connectBus } from './bus.js'
import { deferred, delay, withDeadline } from './deferred.js'
import {
  DeadlineError,
  InvalidInputError,
  LeaseExpiredError,
  NotFoundError,
  UnavailableError,
} from './errors.js'
import { startNatsServer, type TestNatsServer } from './testing/nats-server.js'

let server: TestNatsServer
const buses: Bus[] = []

beforeAll(async () => {
  server = await startNatsServer()
})
afterEach(async () => {
  for (const bus of buses.splice(0)) await bus.close()
})
afterAll(() => server.close())

async function join(name: string): Promise<Bus> {
  const bus = await connectBus({ url: server.url, name })
  buses.push(bus)
  return bus
}

/** Waits until `check` holds, looking often. */
async function until(check: () => boolean, ms = 5_000): Promise<void> {
  const endMs = performance.now() + ms
  while (!check()) {
    if (performance.now() > endMs) throw new DeadlineError(`not within ${ms} ms`)
    await delay(10)
  }
}

/** Waits until the server knows all subscriptions of a bus: it takes what a connection says in order. */
async function reachedServer(bus: Bus): Promise<void> {
  const subscription = bus.respond('test.reached', () => ({}))
  await bus.request('test.reached', {}, 2_000)
  subscription.unsubscribe()
}

function statusOf(bus: Bus, wanted: boolean): Promise<void> {
  const seen = deferred<void>()
  const off = bus.onStatus((connected) => {
    if (connected !== wanted) return
    off()
    seen.resolve()
  })
  return withDeadline(seen.promise, 5_000, `waiting for connected = ${wanted}`)
}

async function failure(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise
  } catch (error) {
    return error
  }
  throw new Error('expected a failure')
}

describe('a bus with its server', () => {
  test('delivers what is published, and survives bad messages and handlers', async () => {
    const [sender, receiver] = [await join('sender'), await join('receiver')]
    const seen: [unknown, string][] = []
    receiver.subscribe('test.load.*', (message, subject) => {
      seen.push([message, subject])
      if (seen.length === 1) throw new Error('a handler that fails')
    })
    await reachedServer(receiver)

    const stranger = await connect({ servers: server.url })
    stranger.publish('test.load.gpu-0', 'not JSON')
    await stranger.close()
    sender.publish('test.load.gpu-0', { tokens: 1 })
    sender.publish('test.load.gpu-1', { tokens: 2 })
    await until(() => seen.length === 2)
    expect(seen).toEqual([
      [{ tokens: 1 }, 'test.load.gpu-0'],
      [{ tokens: 2 }, 'test.load.gpu-1'],
    ])
  })

  test('answers requests, with errors of the same class', async () => {
    const [asker, answerer] = [await join('asker'), await join('answerer')]
    answerer.respond('test.control', (request) => {
      if (typeof request === 'object' && request !== null && 'fail' in request) {
        throw new LeaseExpiredError('The lease is over.', { ids: { deviceId: 'fpga-0' }, retryAfterMs: 5 })
      }
      return { echo: request }
    })
    answerer.respond('test.silent', () => new Promise(() => {}))
    await reachedServer(answerer)
    expect(await asker.request('test.control', { a: 1 }, 2_000)).toEqual({ echo: { a: 1 } })
    const error = await failure(asker.request('test.control', { fail: true }, 2_000))
    expect(error).toBeInstanceOf(LeaseExpiredError)
    expect(error).toMatchObject({ ids: { deviceId: 'fpga-0' }, retryAfterMs: 5 })
    expect(await failure(asker.request('test.silent', {}, 50))).toBeInstanceOf(DeadlineError)
    expect(await failure(asker.request('test.nobody', {}, 2_000))).toBeInstanceOf(NotFoundError)
  })

  test('keeps entries, and tells watchers of puts and deletes', async () => {
    const [writer, reader] = [await join('writer'), await join('reader')]
    const bucket = writer.bucket('test_devices', { ttlMs: 10_000 })
    await bucket.put('gpu-0', { slots: 8 })
    const seen: BucketEntry[] = []
    const stop = reader.bucket('test_devices', { ttlMs: 10_000 }).watch((entry) => seen.push(entry))
    await until(() => seen.length === 1)
    await bucket.put('gpu-1', { slots: 1 })
    await bucket.delete('gpu-0')
    await until(() => seen.length === 3)
    expect(seen).toEqual([
      { key: 'gpu-0', value: { slots: 8 } },
      { key: 'gpu-1', value: { slots: 1 } },
      { key: 'gpu-0', value: undefined },
    ])
    expect(await bucket.entries()).toEqual([{ key: 'gpu-1', value: { slots: 1 } }])
    stop()
    await bucket.put('gpu-2', { slots: 1 })
    expect(seen).toHaveLength(3)
  })

  test('lets entries expire', async () => {
    const bucket = (await join('writer')).bucket('test_short', { ttlMs: 300 })
    await bucket.put('gpu-0', {})
    expect(await bucket.entries()).toHaveLength(1)
    const endMs = performance.now() + 3_000
    while ((await bucket.entries()).length > 0 && performance.now() < endMs) await delay(50)
    expect(await bucket.entries()).toEqual([])
  })

  test('announces services that standard tools list', async () => {
    const agent = await join('agent')
    await agent.service({
      name: 'kvasir-agent',
      version: '0.1.0',
      description: 'a device agent',
      metadata: { device: 'fpga-0' },
      endpoints: { describe: { subject: 'test.describe', handler: () => ({ device: 'fpga-0' }) } },
    })
    const tool = await connect({ servers: server.url })
    const found = []
    for await (const info of await new Svcm(tool)
      .client({ strategy: 'stall', maxWait: 500, stall: 100 })
      .info()) {
      found.push(info)
    }
    await tool.close()
    expect(found).toMatchObject([{ name: 'kvasir-agent', version: '0.1.0', metadata: { device: 'fpga-0' } }])
    expect(await agent.request('test.describe', {}, 2_000)).toEqual({ device: 'fpga-0' })
  })

  test('refuses URLs that are none and servers that are not there in one sentence', async () => {
    for (const url of ['http://127.0.0.1:4222', 'nats://', 'nats://host:99999']) {
      expect(await failure(connectBus({ url, name: 'lost' }))).toBeInstanceOf(InvalidInputError)
    }
    const error = await failure(
      connectBus({ url: 'nats://user:secret@127.0.0.1:1', name: 'lost', connectTimeoutMs: 100 }),
    )
    expect(error).toBeInstanceOf(UnavailableError)
    expect(String(error)).toMatch(/Cannot connect to NATS at nats:\/\/127\.0\.0\.1:1 /)
  })
})

describe('a bus whose server goes away', () => {
  test('says so at once, drops what is published, and is back with subscriptions and watches', async () => {
    const [a, b] = [await join('a'), await join('b')]
    const messages: unknown[] = []
    const entries: string[] = []
    b.subscribe('test.load.*', (message) => messages.push(message))
    b.bucket('test_restart', { ttlMs: 60_000 }).watch(({ key }) => entries.push(key))
    const bucket = a.bucket('test_restart', { ttlMs: 60_000 })
    await bucket.put('before', {})
    await until(() => entries.includes('before'))

    const down = [statusOf(a, false), statusOf(b, false)]
    await server.kill()
    const killedAt = performance.now()
    await Promise.all(down)
    expect(performance.now() - killedAt).toBeLessThan(500)
    expect(a.connected).toBe(false)
    a.publish('test.load.gpu-0', { lost: true })
    expect(await failure(bucket.put('during', {}))).toBeInstanceOf(UnavailableError)
    expect(await failure(a.request('test.control', {}, 1_000))).toBeInstanceOf(UnavailableError)

    const up = [statusOf(a, true), statusOf(b, true)]
    await server.start({ wipe: true })
    await Promise.all(up)
    // The store is empty: the bucket is made anew, and the watch finds it.
    await bucket.put('after', {})
    await until(() => entries.includes('after'))
    a.publish('test.load.gpu-0', { kept: true })
    await until(() => messages.length > 0)
    expect(messages).toEqual([{ kept: true }])
  })

  test('finds a bucket that was removed and made again behind its back', async () => {
    const [a, b] = [await join('a'), await join('b')]
    const entries: string[] = []
    b.bucket('test_removed', { ttlMs: 60_000 }).watch(({ key }) => entries.push(key))
    const bucket = a.bucket('test_removed', { ttlMs: 60_000 })
    await bucket.put('before', {})
    await until(() => entries.includes('before'))
    const tool = await connect({ servers: server.url })
    await (await new Kvm(tool).open('test_removed')).destroy()
    await tool.close()
    await bucket.put('after', {})
    await until(() => entries.includes('after'))
  })

  test('notices a server that is alive and silent', async () => {
    const bus = await join('a')
    const down = statusOf(bus, false)
    const frozenAt = performance.now()
    server.freeze()
    try {
      await down
      expect(performance.now() - frozenAt).toBeLessThan(2_500)
    } finally {
      server.thaw()
    }
    if (!bus.connected) await statusOf(bus, true)
  })

  test('closes while the server is gone', async () => {
    const bus = await join('a')
    bus.bucket('test_close', { ttlMs: 10_000 }).watch(() => {})
    const down = statusOf(bus, false)
    await server.kill()
    await down
    await withDeadline(bus.close(), 3_000, 'closing')
    await server.start()
  })
})
