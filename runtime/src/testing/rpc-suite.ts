/**
 * What every transport of gRPC must do, whichever server and client stand behind it: the same for both, so that
 * one can take the other's place.
 */
import { createServer, type Server as NetServer, type Socket } from 'node:net'
import { credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js'
import {
  KvServiceClient,
  type KvServiceServer,
  KvServiceService,
  type PullResponse,
  type SnapshotResponse,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import { afterEach, describe, expect, test } from 'vitest'
import { deferred, withDeadline } from '../deferred.js'
import {
  CancelledError,
  CorruptDataError,
  DeadlineError,
  InternalError,
  InvalidInputError,
  LeaseExpiredError,
  UnreachableError,
  UnsupportedError,
} from '../errors.js'
import { PROTOCOL_METADATA } from '../protocol.js'
import { callBidi, callServerStream, callUnary, checkHealth, type RpcClientOptions } from '../rpc-client.js'
import { BULK_WINDOW_BYTES } from '../rpc-limits.js'
import {
  bidi,
  clientStream,
  type RpcServer,
  serverStream,
  type startRpcServer,
  unary,
} from '../rpc-server.js'

const MEGABYTE = 1 << 20

export interface Transport {
  readonly start: typeof startRpcServer
  connect(address: string, options?: RpcClientOptions): KvServiceClient
}

export function rpcSuite({ start, connect }: Transport): void {
  const cleanups: (() => unknown)[] = []

  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
  })

  async function serve(methods: Partial<KvServiceServer>): Promise<RpcServer> {
    const server = await start({
      host: '127.0.0.1',
      port: 0,
      services: [{ definition: KvServiceService, implementation: service(methods) }],
    })
    cleanups.push(() => server.close())
    return server
  }

  function client(address: string, options: RpcClientOptions = {}): KvServiceClient {
    const made = connect(address, options)
    cleanups.push(() => made.close())
    return made
  }

  /** A client of grpc-js itself: no protocol version, no error mapping. */
  function strangerClient(address: string): KvServiceClient {
    const made = new KvServiceClient(address, credentials.createInsecure())
    cleanups.push(() => made.close())
    return made
  }

  describe('unary calls', () => {
    test('carry request and answer', async () => {
      const server = await serve({
        reserve: unary(async (request) => ({
          lease: undefined,
          tokens: Math.ceil(request.tokens / 16) * 16,
        })),
      })
      const response = await callUnary(client(server.address), 'reserve', reserveRequest)
      expect(response.tokens).toBe(32)
    })

    test('carry errors with class, ids, pause and any text', async () => {
      const server = await serve({
        reserve: unary(async () => {
          throw new LeaseExpiredError('The lease 7 is über ✓.\nNext line.', {
            ids: { leaseId: '7', 'schlüssel ✓': 'x' },
            retryAfterMs: 250,
            param: 'lease',
          })
        }),
      })
      const error = await failure(callUnary(client(server.address), 'reserve', reserveRequest))
      expect(error).toBeInstanceOf(LeaseExpiredError)
      expect(error).toMatchObject({
        message: 'The lease 7 is über ✓.\nNext line.',
        ids: { leaseId: '7', 'schlüssel ✓': 'x' },
        retryAfterMs: 250,
        param: 'lease',
      })
    })

    test('turn an unknown error of the handler into an InternalError', async () => {
      const server = await serve({
        reserve: unary(() => {
          throw new TypeError('lone surrogate \ud800 in it')
        }),
      })
      const error = await failure(callUnary(client(server.address), 'reserve', reserveRequest))
      expect(error).toBeInstanceOf(InternalError)
    })

    test('end with a DeadlineError on both sides', async () => {
      const aborted = deferred<unknown>()
      const server = await serve({
        reserve: unary(async (_request, call) => {
          call.signal.addEventListener('abort', () => aborted.resolve(call.signal.reason))
          return new Promise(() => {})
        }),
      })
      const error = await failure(
        callUnary(client(server.address), 'reserve', reserveRequest, { timeoutMs: 200 }),
      )
      expect(error).toBeInstanceOf(DeadlineError)
      expect(await withDeadline(aborted.promise, 2_000, 'abort')).toBeInstanceOf(DeadlineError)
    })

    test('are cancelled by their signal, with its reason', async () => {
      const started = deferred<AbortSignal>()
      const server = await serve({
        reserve: unary(async (_request, call) => {
          started.resolve(call.signal)
          return new Promise(() => {})
        }),
      })
      const controller = new AbortController()
      const error = failure(
        callUnary(client(server.address), 'reserve', reserveRequest, { signal: controller.signal }),
      )
      const signal = await started.promise
      const aborted = new Promise((resolve) => signal.addEventListener('abort', resolve))
      controller.abort(new UnreachableError('the device is lost'))
      expect(await error).toBeInstanceOf(UnreachableError)
      await withDeadline(aborted, 2_000, 'abort')
      expect(signal.reason).toBeInstanceOf(CancelledError)
    })

    test('do not abort the signal after a normal end', async () => {
      let signal: AbortSignal | undefined
      const server = await serve({
        reserve: unary(async (_request, call) => {
          signal = call.signal
          return { lease: undefined, tokens: 16 }
        }),
      })
      const caller = client(server.address)
      await callUnary(caller, 'reserve', reserveRequest)
      await callUnary(caller, 'reserve', reserveRequest)
      expect(signal?.aborted).toBe(false)
    })
  })

  describe('protocol version', () => {
    const reserve = unary(async () => ({ lease: undefined, tokens: 16 }))

    function callAs(address: string, version: string | undefined): Promise<ServiceError> {
      const metadata = new Metadata()
      if (version !== undefined) metadata.set(PROTOCOL_METADATA, version)
      return new Promise((resolve, reject) => {
        strangerClient(address).reserve(reserveRequest, metadata, (error) => {
          if (error === null) reject(new Error('expected a refusal'))
          else resolve(error)
        })
      })
    }

    test.each([
      [undefined, 'names no protocol version'],
      ['99', 'speaks protocol version 99'],
      ['0', 'speaks protocol version 0'],
      ['one', 'names no protocol version'],
    ])('%s is refused with one sentence', async (version, part) => {
      const server = await serve({ reserve })
      const error = await callAs(server.address, version)
      expect(error.code).toBe(status.FAILED_PRECONDITION)
      expect(error.details).toContain(part)
      expect(error.details).toContain('this process serves version 1')
    })

    test('a refusal by the peer is an UnsupportedError', async () => {
      const server = await serve({
        reserve: unary(async () => {
          throw Object.assign(new Error('x'), { code: status.FAILED_PRECONDITION, details: 'version 2 only' })
        }),
      })
      const error = await failure(callUnary(client(server.address), 'reserve', reserveRequest))
      expect(error).toBeInstanceOf(UnsupportedError)
    })

    test('the health service is open to all', async () => {
      const server = await serve({ reserve })
      expect(await checkHealth(server.address, 1_000)).toBe(true)
      server.setServing(false)
      expect(await checkHealth(server.address, 1_000)).toBe(false)
    })
  })

  describe('server streams', () => {
    test('deliver in order, and what came before an error first', async () => {
      const server = await serve({
        snapshot: serverStream(async (_request, _call, send) => {
          for (let i = 1; i <= 5; i += 1) await send(snapshot(BigInt(i)))
          throw new UnsupportedError('no more than five')
        }),
      })
      const seen: bigint[] = []
      const messages = callServerStream(client(server.address), 'snapshot', {})
      const error = await failure(
        (async () => {
          for await (const message of messages) seen.push(message.sequence)
        })(),
      )
      expect(seen).toEqual([1n, 2n, 3n, 4n, 5n])
      expect(error).toBeInstanceOf(UnsupportedError)
    })

    test('that nobody reads, and that fail, end nothing', async () => {
      const server = await serve({
        snapshot: serverStream(async () => {
          throw new UnsupportedError('at once')
        }),
      })
      const unread = callServerStream(client(server.address), 'snapshot', {})
      // A second call after it shows that the first failure has arrived.
      await failure(collect(callServerStream(client(server.address), 'snapshot', {})))
      expect(await failure(collect(unread))).toBeInstanceOf(UnsupportedError)
    })

    test('leaving the loop cancels the call', async () => {
      const aborted = deferred<unknown>()
      const server = await serve({
        snapshot: serverStream(async (_request, call, send) => {
          call.signal.addEventListener('abort', () => aborted.resolve(call.signal.reason))
          for (;;) await send(snapshot(1n))
        }),
      })
      for await (const _ of callServerStream(client(server.address), 'snapshot', {})) break
      expect(await withDeadline(aborted.promise, 2_000, 'abort')).toBeInstanceOf(CancelledError)
    })

    test('an aborted signal ends the loop with its reason and makes send throw', async () => {
      const sendError = deferred<unknown>()
      const server = await serve({
        snapshot: serverStream(async (_request, _call, send) => {
          try {
            for (;;) await send(snapshot(1n))
          } catch (error) {
            sendError.resolve(error)
          }
        }),
      })
      const controller = new AbortController()
      const messages = callServerStream(client(server.address), 'snapshot', {}, { signal: controller.signal })
      const error = await failure(
        (async () => {
          for await (const _ of messages) controller.abort()
        })(),
      )
      expect(error).toBeInstanceOf(CancelledError)
      expect(await withDeadline(sendError.promise, 2_000, 'send')).toBeInstanceOf(CancelledError)
    })

    test('the server stops and the signal fires at the deadline', async () => {
      const server = await serve({
        snapshot: serverStream(
          (_request, call) =>
            new Promise((resolve) => {
              call.signal.addEventListener('abort', () => resolve())
            }),
        ),
      })
      const messages = callServerStream(client(server.address), 'snapshot', {}, { timeoutMs: 100 })
      expect(await failure(collect(messages))).toBeInstanceOf(DeadlineError)
    })
  })

  describe('streams both ways', () => {
    test('carry messages until both sides have ended', async () => {
      const server = await serve({
        pull: bidi(async (incoming, _call, send) => {
          for await (const message of incoming) {
            if (message.message?.$case === 'ack') await send(chunk(8, Number(message.message.value.sequence)))
          }
          await send(chunk(8, 99))
        }),
      })
      const call = callBidi(client(server.address), 'pull')
      for (const sequence of [1n, 2n, 3n]) {
        await call.send({ message: { $case: 'ack', value: { sequence } } })
      }
      call.end()
      const sequences = (await collect(call.messages)).map((response) =>
        response.message?.$case === 'chunk' ? response.message.value.sequence : undefined,
      )
      expect(sequences).toEqual([1n, 2n, 3n, 99n])
      expect(await failure(call.send({ message: undefined }))).toBeInstanceOf(CancelledError)
    })

    test('the handler may end without reading all', async () => {
      const server = await serve({
        pull: bidi(async (incoming, _call, send) => {
          for await (const _ of incoming) break
          await send(chunk(8))
        }),
      })
      const call = callBidi(client(server.address), 'pull')
      await call.send({ message: undefined })
      expect(await collect(call.messages)).toHaveLength(1)
    })

    test('a handler error reaches reader and writer', async () => {
      const server = await serve({
        pull: bidi(async () => {
          throw new LeaseExpiredError('gone')
        }),
      })
      const call = callBidi(client(server.address), 'pull')
      expect(await failure(collect(call.messages))).toBeInstanceOf(LeaseExpiredError)
      expect(await failure(call.send({ message: undefined }))).toBeInstanceOf(LeaseExpiredError)
    })

    test('a slow reader of the client makes the server wait', async () => {
      let sent = 0
      let sending = deferred<void>()
      const server = await serve({
        pull: bidi(async (_incoming, _call, send) => {
          for (;;) {
            await send(chunk(MEGABYTE))
            sent += 1
            sending.resolve()
          }
        }),
      })
      const call = callBidi(
        client(server.address, { windowBytes: BULK_WINDOW_BYTES, channelKey: 'kv' }),
        'pull',
      )
      await call.messages.next()
      // Until no message went out for 200 ms.
      for (;;) {
        sending = deferred()
        const moved = await withDeadline(sending.promise, 200, 'moving').then(
          () => true,
          () => false,
        )
        if (!moved) break
      }
      // The reader's 16 messages, the window's 16 MB and what is on its way.
      expect(sent).toBeLessThan(48)
      const before = sent
      for (let i = 0; i < 40; i += 1) await call.messages.next()
      expect(sent).toBeGreaterThan(before)
      await call.messages.return?.()
    })

    test('a slow reader of the server makes the client wait', async () => {
      const release = deferred<void>()
      let received = 0
      const server = await serve({
        pull: bidi(async (incoming) => {
          await release.promise
          for await (const _ of incoming) received += 1
        }),
      })
      const call = callBidi(client(server.address), 'pull')
      // The largest request there is: a long transfer id.
      const request = {
        message: {
          $case: 'open',
          value: {
            transferId: 'x'.repeat(MEGABYTE),
            receiverLease: undefined,
            windowBytes: 0n,
            timing: 'PULL_TIMING_LAYERED',
          },
        },
      } as const
      let sent = 0
      const all = (async () => {
        for (; sent < 64; sent += 1) await call.send(request)
        call.end()
      })()
      await failure(withDeadline(all, 300, 'sending'))
      expect(sent).toBeLessThan(24)
      release.resolve()
      await all
      await collect(call.messages)
      expect(received).toBe(64)
    })
  })

  describe('malformed messages', () => {
    /** Sends raw bytes as a request of a method. */
    function sendRaw(address: string, path: string, bytes: Buffer): Promise<ServiceError> {
      const metadata = new Metadata()
      metadata.set(PROTOCOL_METADATA, '1')
      return new Promise((resolve, reject) => {
        strangerClient(address).makeUnaryRequest(
          path,
          (raw: Buffer) => raw,
          (raw: Buffer) => raw,
          bytes,
          metadata,
          (error) => (error === null ? reject(new Error('expected a failure')) : resolve(error)),
        )
      })
    }

    test('fail the call, not the process', async () => {
      const server = await serve({ reserve: unary(async () => ({ lease: undefined, tokens: 16 })) })
      const garbage = Buffer.from([0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f, 1])
      for (const method of ['Reserve', 'Pull', 'Snapshot']) {
        const error = await sendRaw(server.address, `/kvasir.kv.v1.KvService/${method}`, garbage)
        expect(error.code).toBe(status.INTERNAL)
      }
      expect((await callUnary(client(server.address), 'reserve', reserveRequest)).tokens).toBe(16)
    })

    test('from the server are a CorruptDataError', async () => {
      const definition = {
        ...KvServiceService,
        reserve: { ...KvServiceService.reserve, responseSerialize: () => Buffer.from([0x0a, 0xff, 0xff]) },
      }
      const server = await start({
        host: '127.0.0.1',
        port: 0,
        services: [
          {
            definition,
            implementation: service({ reserve: unary(async () => ({ lease: undefined, tokens: 1 })) }),
          },
        ],
      })
      cleanups.push(() => server.close())
      const error = await failure(callUnary(client(server.address), 'reserve', reserveRequest))
      expect(error).toBeInstanceOf(CorruptDataError)
    })

    test('that cannot be written fail the call', async () => {
      const server = await serve({ reserve: unary(async () => ({ lease: undefined, tokens: -1 })) })
      const caller = client(server.address)
      expect(await failure(callUnary(caller, 'reserve', reserveRequest))).toBeInstanceOf(Error)
      const call = callBidi(caller, 'pull')
      const unwritable = { message: { $case: 'ack', value: { sequence: -1n } } } as const
      expect(await failure(withDeadline(call.send(unwritable), 2_000, 'sending'))).toBeInstanceOf(
        CorruptDataError,
      )
    })

    test('over the size limit are refused', async () => {
      const server = await serve({
        pull: bidi(async (_incoming, _call, send) => send(chunk(65 * MEGABYTE))),
      })
      const call = callBidi(client(server.address), 'pull')
      expect(await failure(collect(call.messages))).toBeInstanceOf(InternalError)
    })
  })

  describe('connections', () => {
    test('a refused connection is an UnreachableError at once', async () => {
      const server = await serve({})
      await server.close()
      const error = await failure(callUnary(client(server.address), 'reserve', reserveRequest))
      expect(error).toBeInstanceOf(UnreachableError)
      expect(await checkHealth(server.address, 500)).toBe(false)
    })

    test('a closed client is a CancelledError', async () => {
      const server = await serve({})
      const caller = connect(server.address)
      caller.close()
      expect(await failure(callUnary(caller, 'reserve', reserveRequest))).toBeInstanceOf(CancelledError)
      expect(() => callServerStream(caller, 'snapshot', {})).toThrow(CancelledError)
      expect(() => callBidi(caller, 'pull')).toThrow(CancelledError)
    })

    test('calls that run while the server closes are an UnreachableError', async () => {
      const started = deferred<void>()
      const server = await serve({
        snapshot: serverStream((_request, call) => {
          started.resolve()
          return new Promise((resolve) => call.signal.addEventListener('abort', () => resolve()))
        }),
      })
      const error = failure(collect(callServerStream(client(server.address), 'snapshot', {})))
      await started.promise
      await server.close()
      expect(await error).toBeInstanceOf(UnreachableError)
    })

    test('drain waits for running calls, and not past its bound', async () => {
      const started = deferred<void>()
      const finish = deferred<void>()
      const server = await serve({
        snapshot: serverStream(async (_request, _call, send) => {
          started.resolve()
          await finish.promise
          await send(snapshot(1n))
        }),
      })
      const messages = collect(callServerStream(client(server.address), 'snapshot', {}))
      await started.promise
      const drained = server.drain(5_000)
      expect(server.drain(5_000)).toBe(drained)
      finish.resolve()
      expect(await messages).toHaveLength(1)
      await drained

      const stuck = await serve({ snapshot: serverStream(() => new Promise(() => {})) })
      const reading = failure(collect(callServerStream(client(stuck.address), 'snapshot', {})))
      await checkHealth(stuck.address, 1_000)
      await stuck.drain(50)
      expect(await reading).toBeInstanceOf(UnreachableError)
    })

    test('a port that is taken is one clear sentence', async () => {
      const server = await serve({})
      const error = await failure(start({ host: '127.0.0.1', port: server.port, services: [] }))
      expect(error).toBeInstanceOf(InvalidInputError)
      expect(error).toMatchObject({
        message: expect.stringContaining(`Port ${server.port} on 127.0.0.1 is taken`),
      })
    })

    test.concurrent('a peer that is cut off ends its calls on both sides within about two seconds', async () => {
      const serverAborted = deferred<void>()
      const server = await start({
        host: '127.0.0.1',
        port: 0,
        services: [
          {
            definition: KvServiceService,
            implementation: service({
              snapshot: serverStream(async (_request, call, send) => {
                await send(snapshot(1n))
                await new Promise<void>((resolve) => call.signal.addEventListener('abort', () => resolve()))
                serverAborted.resolve()
              }),
            }),
          },
        ],
      })
      const relay = await startRelay(server.port)
      const caller = connect(`127.0.0.1:${relay.port}`)
      try {
        const messages = callServerStream(caller, 'snapshot', {})
        await messages.next()
        relay.cut()
        const cutAt = performance.now()
        expect(await failure(messages.next())).toBeInstanceOf(UnreachableError)
        expect(performance.now() - cutAt).toBeLessThan(2_800)
        await withDeadline(serverAborted.promise, 2_000, 'the server to notice')
      } finally {
        caller.close()
        relay.close()
        await server.close()
      }
    })

    test.concurrent('a peer that accepts and never speaks is given up', async () => {
      const silent = createServer(() => {})
      const port = await listen(silent)
      const caller = connect(`127.0.0.1:${port}`)
      try {
        const startedAt = performance.now()
        const error = await failure(collect(callServerStream(caller, 'snapshot', {})))
        expect(error).toBeInstanceOf(UnreachableError)
        expect(performance.now() - startedAt).toBeLessThan(2_800)
      } finally {
        caller.close()
        silent.close()
      }
    })
  })
}

/** A service whose methods answer with NOT_FOUND unless a test replaces them. */
function service(methods: Partial<KvServiceServer>): KvServiceServer {
  const absent = async () => {
    throw new InternalError('this method is not part of the test')
  }
  return {
    reserve: unary(absent),
    extend: unary(absent),
    release: unary(absent),
    pull: bidi(absent),
    push: clientStream(absent),
    snapshot: serverStream(absent),
    offer: unary(absent),
    ...methods,
  }
}

const reserveRequest = {
  requestId: 'request-1',
  epoch: 1,
  modelDigest: 'digest',
  tokens: 17,
  profile: 'PROFILE_EXACT',
} as const

function chunk(bytes: number, sequence = 1): PullResponse {
  const data = Buffer.alloc(bytes)
  return {
    message: { $case: 'chunk', value: { sequence: BigInt(sequence), segments: [], data, checksum: 0n } },
  }
}

function snapshot(sequence: bigint): SnapshotResponse {
  return { incarnation: 1n, sequence, hashes: [], variant: undefined }
}

async function failure(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise
  } catch (error) {
    return error
  }
  throw new Error('expected a failure')
}

async function collect<T>(messages: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const message of messages) all.push(message)
  return all
}

function listen(server: NetServer): Promise<number> {
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      resolve(typeof address === 'object' && address !== null ? address.port : 0)
    })
  })
}

/** Forwards bytes to a port until it is cut; then it stays connected and silent, as a pulled cable does. */
async function startRelay(target: number): Promise<{ port: number; cut(): void; close(): void }> {
  const { connect } = await import('node:net')
  const sockets = new Set<Socket>()
  let cut = false
  const relay = createServer((near) => {
    const far = connect(target, '127.0.0.1')
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(from)
      from.on('data', (data) => {
        if (!cut) to.write(data)
      })
      from.on('error', () => {})
    }
  })
  const port = await listen(relay)
  return {
    port,
    cut() {
      cut = true
    },
    close() {
      for (const socket of sockets) socket.destroy()
      relay.close()
    },
  }
}
