/** The decoding device's end of an Attend stream, against attending devices that misbehave in every way. */
import {
  type AttendAnswer,
  AttendMode,
  type AttendRequest,
  type AttendResponse,
  MemoryServiceClient,
  MemoryServiceService,
} from '@kvasir/proto/kvasir/memory/v1/memory'
import { CorruptDataError, OverloadedError, UnreachableError } from '@kvasir/runtime/errors'
import { createRpcClient } from '@kvasir/runtime/rpc-client'
import { bidi, type RpcServer, type Send, startRpcServer } from '@kvasir/runtime/rpc-server'
import { afterEach, describe, expect, it } from 'vitest'
import { bytesOf, floatsOf } from './attend-bytes.js'
import { RemoteAttentionCall } from './remote-attention.js'

const model = { kvHeads: 2, headDim: 3 }
/** Four query heads. */
const q = Float32Array.from({ length: 12 }, (_, i) => i / 7)
const rivals = Float32Array.of(1, 2, 3, 4)
const EMPTY = Buffer.alloc(0)

const servers: RpcServer[] = []
const calls: RemoteAttentionCall[] = []
afterEach(async () => {
  for (const call of calls.splice(0)) call.close()
  await Promise.all(servers.splice(0).map((server) => server.close()))
})

type Respond = (request: AttendRequest, send: Send<AttendResponse>) => Promise<void>

/** A device whose every message is what the test says. */
async function attending(respond: Respond, mode: AttendMode = AttendMode.PARTIAL, attendMs = 1_000) {
  const server = await startRpcServer({
    host: '127.0.0.1',
    port: 0,
    services: [
      {
        definition: MemoryServiceService,
        implementation: {
          attend: bidi(async (incoming: AsyncIterable<AttendRequest>, _call, send: Send<AttendResponse>) => {
            for await (const request of incoming) await respond(request, send)
          }),
        },
      },
    ],
  })
  servers.push(server)
  const call = new RemoteAttentionCall({
    client: createRpcClient(MemoryServiceClient, server.address),
    deviceId: 'fpga-7',
    model,
    attendMs,
    open: {
      lease: undefined,
      requestId: 'r',
      epoch: 1,
      modelDigest: 'd',
      mode,
      pages: 5,
      sourceEndpoint: 'here:1',
      sourceDeviceId: 'gpu-0',
      transferId: 't',
    },
  })
  calls.push(call)
  return { call, server }
}

const answerTo = (id: bigint, changes: Partial<AttendAnswer> = {}): AttendResponse => ({
  message: {
    $case: 'answer',
    value: {
      id,
      chosen: [2, 1],
      pages: EMPTY,
      output: bytesOf(q.map((value) => value * 2)),
      max: bytesOf(Float32Array.of(1, 2, 3, 4)),
      sum: bytesOf(Float32Array.of(5, 6, 7, 8)),
      relevancyUs: 1,
      retrievalUs: 2,
      applyUs: 3,
      ...changes,
    },
  },
})

const ready: AttendResponse = {
  message: { $case: 'ready', value: { bytes: 10n, cachedPages: 1, prepareUs: 4n } },
}

/** Says ready, then answers each query as `answer` does. */
const answering =
  (answer: (id: bigint) => AttendResponse): Respond =>
  async ({ message }, send) => {
    await send(message?.$case === 'query' ? answer(message.value.id) : ready)
  }

describe('a query to another device', () => {
  it('arrives as it was asked, and is answered', async () => {
    const requests: AttendRequest[] = []
    const { call } = await attending(async (request, send) => {
      requests.push(request)
      await answering((id) => answerTo(id))(request, send)
    })
    expect(await call.ready).toMatchObject({ bytes: 10n, cachedPages: 1, prepareUs: 4n })
    // A view into something larger, as drivers may give.
    const view = new Float32Array([9, ...q, 9]).subarray(1, 13)
    const [first, second] = await Promise.all([
      call.ask({ layer: 0, q: view, pages: 3, rivals }),
      call.ask({ layer: 1, q, pages: 0, rivals: new Float32Array() }),
    ])
    expect(requests.map(({ message }) => message?.$case)).toEqual(['open', 'query', 'query'])
    const [, asked] = requests
    if (asked?.message?.$case !== 'query') throw new Error('no query')
    expect(asked.message.value).toMatchObject({ id: 1n, layer: 0, pages: 3 })
    expect(floatsOf(asked.message.value.q)).toEqual(q)
    expect(floatsOf(asked.message.value.rivals)).toEqual(rivals)
    expect(first).toMatchObject({ chosen: Uint32Array.of(2, 1), relevancyUs: 1, retrievalUs: 2, applyUs: 3 })
    expect(first.partial?.output).toEqual(q.map((value) => value * 2))
    expect(first.partial?.sum).toEqual(Float32Array.of(5, 6, 7, 8))
    expect(first.wireBytes).toBeGreaterThan(48 + 16 + 48 + 32)
    expect(first.wireBytes).toBeLessThan(250)
    expect(second.wireBytes).toBe(first.wireBytes - 16)
  })

  it('takes page numbers where the other device has bounds only', async () => {
    const pages = bytesOf(Uint32Array.of(0, 4, 3))
    const { call } = await attending(
      answering((id) => answerTo(id, { pages, output: EMPTY, max: EMPTY, sum: EMPTY })),
      AttendMode.INDICES,
    )
    const answer = await call.ask({ layer: 0, q, pages: 2, rivals })
    expect(answer).toMatchObject({ chosen: Uint32Array.of(2, 1), pages: Uint32Array.of(0, 4, 3) })
    expect(answer.partial).toBeUndefined()
  })
})

describe('an attending device that', () => {
  const failureOf = async (work: Promise<unknown>) => {
    const failure = await work.then(
      () => undefined,
      (error: unknown) => error,
    )
    expect(failure).toMatchObject({ ids: { deviceId: 'fpga-7' } })
    return failure
  }

  it('never answers fails the query at its deadline, and everything after it', async () => {
    const silent: Respond = async ({ message }, send) => {
      if (message?.$case === 'open') await send(ready)
    }
    const { call } = await attending(silent, AttendMode.PARTIAL, 60)
    await call.ready
    const startedMs = performance.now()
    const [first, second] = await Promise.all([
      failureOf(call.ask({ layer: 0, q, pages: 1, rivals })),
      failureOf(call.ask({ layer: 1, q, pages: 1, rivals })),
    ])
    expect(performance.now() - startedMs).toBeLessThan(1_000)
    expect(first).toBeInstanceOf(UnreachableError)
    expect(first).toMatchObject({ ids: { sourceCode: 'deadline' } })
    expect(second).toBeInstanceOf(UnreachableError)
    expect(await call.lost).toBe(first)
    expect(await failureOf(call.ask({ layer: 2, q, pages: 1, rivals }))).toBe(first)
  })

  it('refuses, or dies, is named', async () => {
    const refusing = await attending(async () => {
      throw new OverloadedError('Nothing is free.')
    })
    const failure = await failureOf(refusing.call.ready)
    expect(failure).toBeInstanceOf(UnreachableError)
    expect(failure).toMatchObject({ ids: { sourceCode: 'overloaded' } })
    expect(failure).toMatchObject({ message: expect.stringContaining('Nothing is free') })

    const dying = await attending(answering((id) => answerTo(id)))
    await dying.call.ready
    await dying.server.close()
    expect(await failureOf(dying.call.ask({ layer: 0, q, pages: 1, rivals }))).toBeInstanceOf(
      UnreachableError,
    )
    expect(await dying.call.lost).toBeInstanceOf(UnreachableError)
  })

  it.each<[string, Partial<AttendAnswer>]>([
    ['answers another query', { id: 9n }],
    ['leaves a KV head out', { chosen: [2] }],
    ['chooses more pages than it has', { chosen: [6, 1] }],
    ['sends too little', { output: bytesOf(q.subarray(3)) }],
    ['sends halves of numbers', { max: Buffer.alloc(15) }],
  ])('%s is not believed', async (_what, changes) => {
    const { call } = await attending(answering((id) => answerTo(id, changes)))
    expect(await failureOf(call.ask({ layer: 0, q, pages: 3, rivals }))).toBeInstanceOf(CorruptDataError)
  })

  it.each<[string, number[]]>([
    ['beyond those it has', [0, 5, 3]],
    ['twice', [1, 1, 3]],
    ['fewer than it counts', [0, 1]],
    ['more than it counts', [0, 1, 2, 3]],
  ])('names pages %s is not believed', async (_what, numbers) => {
    const changes = { pages: bytesOf(Uint32Array.from(numbers)), output: EMPTY, max: EMPTY, sum: EMPTY }
    const { call } = await attending(
      answering((id) => answerTo(id, changes)),
      AttendMode.INDICES,
    )
    expect(await failureOf(call.ask({ layer: 0, q, pages: 3, rivals }))).toBeInstanceOf(CorruptDataError)
  })

  it('is let go is no failure of its own', async () => {
    const { call } = await attending(answering((id) => answerTo(id)))
    await call.ready
    const asked = call.ask({ layer: 0, q, pages: 1, rivals })
    call.close()
    await expect(asked).rejects.toMatchObject({ code: 'cancelled' })
    await expect(call.ask({ layer: 1, q, pages: 1, rivals })).rejects.toMatchObject({ code: 'cancelled' })
  })
})
