/** Calls that stream their request: order, back-pressure, and every way in which they end early. */
import {
  CorpusServiceClient,
  type CorpusServiceServer,
  CorpusServiceService,
  type IngestRequest,
} from '@kvasir/proto/kvasir/memory/v1/corpus'
import { afterEach, expect, test } from 'vitest'
import { deferred } from './deferred.js'
import { CancelledError, InternalError, InvalidInputError, NotFoundError } from './errors.js'
import { callClientStream, createRpcClient } from './rpc-client.js'
import { type CallContext, clientStream, serverStream, startRpcServer, unary } from './rpc-server.js'

const cleanups: (() => unknown)[] = []

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

type Ingest = (incoming: AsyncIterable<IngestRequest>, call: CallContext) => Promise<{ added: bigint }>

async function clientOf(ingest: Ingest): Promise<CorpusServiceClient> {
  const absent = async () => {
    throw new InternalError('this method is not part of the test')
  }
  const implementation: CorpusServiceServer = {
    create: unary(absent),
    list: unary(absent),
    delete: unary(absent),
    prepare: unary(absent),
    documents: unary(absent),
    export: serverStream(absent),
    load: unary(absent),
    unload: unary(absent),
    retrieve: unary(absent),
    ingest: clientStream(async (incoming, call) => {
      const { added } = await ingest(incoming, call)
      return { corpus: undefined, added, problems: [], rejected: 0n }
    }),
  }
  const server = await startRpcServer({
    host: '127.0.0.1',
    port: 0,
    services: [{ definition: CorpusServiceService, implementation }],
  })
  cleanups.push(() => server.close())
  const client = createRpcClient(CorpusServiceClient, server.address)
  cleanups.push(() => client.close())
  return client
}

async function* messages(count: number, bytes = 1): AsyncGenerator<IngestRequest> {
  for (let index = 0; index < count; index++) {
    yield { corpus: undefined, jsonl: Buffer.alloc(bytes, index) }
  }
}

test('messages arrive in order, and one answer comes back', async () => {
  const seen: (number | undefined)[] = []
  const client = await clientOf(async (incoming) => {
    for await (const { jsonl } of incoming) seen.push(jsonl[0])
    return { added: BigInt(seen.length) }
  })
  const answer = await callClientStream(client, 'ingest', messages(100))
  expect(answer.added).toBe(100n)
  expect(seen).toEqual(Array.from({ length: 100 }, (_, index) => index))
})

test('a slow receiver makes the sender wait', async () => {
  const go = deferred<void>()
  let received = 0
  const client = await clientOf(async (incoming) => {
    await go.promise
    for await (const { jsonl } of incoming) received += jsonl.length
    return { added: BigInt(received) }
  })
  let taken = 0
  const paused = deferred<void>()
  const megabytes = async function* () {
    for await (const message of messages(200, 1 << 20)) {
      taken += 1
      // What the transport and both windows hold is far less than this.
      if (taken === 5) paused.resolve()
      yield message
    }
  }
  const answer = callClientStream(client, 'ingest', megabytes())
  await paused.promise
  await new Promise((resolve) => setImmediate(resolve))
  expect(taken).toBeLessThan(100)
  go.resolve()
  expect((await answer).added).toBe(BigInt(200 << 20))
})

test('a refusal in mid-stream ends the sending and is thrown, also while the next message is waited for', async () => {
  const client = await clientOf(async (incoming) => {
    for await (const _ of incoming) break
    throw new NotFoundError('There is no such corpus.')
  })
  const endless = async function* () {
    yield* messages(1)
    await new Promise(() => {})
  }
  await expect(callClientStream(client, 'ingest', endless())).rejects.toThrow(NotFoundError)
})

test('what the messages throw is thrown, and the receiver sees the call cancelled', async () => {
  const arrived = deferred<void>()
  const cancelled = deferred<unknown>()
  const client = await clientOf(async (incoming, call) => {
    call.signal.addEventListener('abort', () => cancelled.resolve(call.signal.reason))
    for await (const _ of incoming) arrived.resolve()
    return { added: 0n }
  })
  const failing = async function* () {
    yield* messages(2)
    await arrived.promise
    throw new InvalidInputError('The upload broke off.')
  }
  await expect(callClientStream(client, 'ingest', failing())).rejects.toThrow('The upload broke off.')
  expect(await cancelled.promise).toBeInstanceOf(CancelledError)
})

test('an aborted signal ends the call', async () => {
  const arrived = deferred<void>()
  const client = await clientOf(async (incoming) => {
    for await (const _ of incoming) arrived.resolve()
    return { added: 0n }
  })
  const controller = new AbortController()
  const endless = async function* () {
    yield* messages(1)
    await new Promise(() => {})
  }
  const call = callClientStream(client, 'ingest', endless(), { signal: controller.signal })
  await arrived.promise
  controller.abort()
  await expect(call).rejects.toThrow(CancelledError)
})
