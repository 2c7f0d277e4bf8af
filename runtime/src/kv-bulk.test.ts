import { PullResponse } from '@kvasir/proto/kvasir/kv/v1/kv'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startBulkServer } from './bulk-server.js'
import {
  decodePullResponse,
  KvBulkService,
  kvPullClient,
  pullResponseParts,
  scatteredChunk,
} from './kv-bulk.js'
import { callBidi } from './rpc-client.js'
import { bidi, clientStream, type RpcServer, serverStream, unary } from './rpc-server.js'

const uint32 = fc.nat({ max: 0xffffffff })
const uint64 = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })
const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((array) => Buffer.from(array))

const chunks: fc.Arbitrary<PullResponse> = fc
  .record({
    sequence: uint64,
    segments: fc.array(fc.record({ layer: uint32, firstBlock: uint32, blockCount: uint32 }), {
      maxLength: 5,
    }),
    data: bytes(300),
    checksum: uint64,
  })
  .map((value) => ({ message: { $case: 'chunk', value } }))

const others: fc.Arbitrary<PullResponse> = fc.constantFrom(
  { message: undefined },
  PullResponse.decode(Buffer.from([10, 0])),
  PullResponse.decode(Buffer.from([26, 0])),
)

const generated = (response: PullResponse) => Buffer.from(PullResponse.encode(response).finish())

describe('the codec of chunks', () => {
  test('writes the same bytes as the generated code', () => {
    fc.assert(
      fc.property(fc.oneof(chunks, others), (response) => {
        expect(Buffer.concat(pullResponseParts(response))).toEqual(generated(response))
      }),
    )
  })

  test('puts scattered chunks together as if they had been one', () => {
    const parts = fc.array(bytes(60), { minLength: 1, maxLength: 4 })
    const facts = fc.record({ sequence: uint64, checksum: uint64.filter((sum) => sum > 0n), parts })
    fc.assert(
      fc.property(facts, ({ sequence, checksum, parts }) => {
        const segments = [{ layer: 1, firstBlock: 2, blockCount: 3 }]
        const data = Buffer.concat([...parts, Buffer.of(1)])
        const chunk = scatteredChunk({ sequence, segments, checksum }, [...parts, Buffer.of(1)])
        const whole: PullResponse = {
          message: { $case: 'chunk', value: { sequence, segments, data, checksum } },
        }
        const sent = pullResponseParts({ message: { $case: 'chunk', value: chunk } })
        expect(Buffer.concat(sent)).toEqual(generated(whole))
      }),
    )
  })

  test('reads what the generated code reads', () => {
    fc.assert(
      fc.property(fc.oneof(chunks, others), (response) => {
        const message = generated(response)
        expect(decodePullResponse(message)).toEqual(PullResponse.decode(message))
      }),
    )
  })

  test('reads or throws on any bytes, as the generated code does', () => {
    const outcome = (read: () => PullResponse) => {
      try {
        return read()
      } catch {
        return 'malformed'
      }
    }
    const damaged = fc
      .tuple(chunks, fc.nat(), fc.nat({ max: 255 }), fc.boolean())
      .map(([response, at, value, cut]) => {
        const message = generated(response)
        const position = at % Math.max(1, message.length)
        if (cut) return message.subarray(0, position)
        message[position] = value
        return message
      })
    fc.assert(
      fc.property(fc.oneof(damaged, bytes(40)), (message) => {
        const ours = outcome(() => decodePullResponse(message))
        const theirs = outcome(() => PullResponse.decode(message))
        // Being stricter is fine; reading something else is not.
        if (ours !== 'malformed') expect(ours).toEqual(theirs)
      }),
    )
  })
})

describe('over the wire', () => {
  let server: RpcServer
  beforeAll(async () => {
    server = await startBulkServer({
      host: '127.0.0.1',
      port: 0,
      services: [
        {
          definition: KvBulkService,
          implementation: {
            reserve: unary(async () => ({ lease: undefined, tokens: 0 })),
            extend: unary(async () => ({ tokens: 0 })),
            release: unary(async () => ({ wasAlive: false })),
            snapshot: serverStream(async () => {}),
            offer: unary(async () => ({ wanted: [] })),
            push: clientStream(async () => ({ blocks: 0, bytes: 0n })),
            pull: bidi(async (_incoming, _call, send) => {
              // Sent without waiting, so that messages queue while others are put together.
              await Promise.all(Array.from({ length: 40 }, (_, i) => send(patterned(i))))
            }),
          },
        },
      ],
    })
  })
  afterAll(() => server.close())

  test('messages of streams side by side stay whole, though they share a connection', async () => {
    const client = kvPullClient(server.address)
    const streams = Array.from({ length: 4 }, async () => {
      let count = 0
      for await (const message of callBidi(client, 'pull').messages) {
        expect(message.message?.$case === 'chunk' && message.message.value.data.equals(pattern(count))).toBe(
          true,
        )
        count += 1
      }
      return count
    })
    expect(await Promise.all(streams)).toEqual([40, 40, 40, 40])
    client.close()
  })

  function pattern(i: number): Buffer {
    return Buffer.alloc(50_000 + i * 1_000, i + 1)
  }
  function patterned(i: number): PullResponse {
    const value = { sequence: BigInt(i), segments: [], data: pattern(i), checksum: 1n }
    return { message: { $case: 'chunk', value } }
  }
})
