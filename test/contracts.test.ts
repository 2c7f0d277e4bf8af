/** What an agent says to a peer that speaks wrongly: one clear error, and nothing lost. */
import { Client, credentials, Metadata, status } from '@grpc/grpc-js'
import { GREEDY } from '@kvasir/agent/testing/test-devices'
import { Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import {
  InferenceServiceClient as Inference,
  type InferenceServiceClient,
} from '@kvasir/proto/kvasir/inference/v1/inference'
import { KvServiceClient, type Lease, ReserveRequest, ReserveResponse } from '@kvasir/proto/kvasir/kv/v1/kv'
import { KvasirError } from '@kvasir/runtime/errors'
import { callServerStream, callUnary, createRpcClient } from '@kvasir/runtime/rpc-client'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fpga, gpu, TestCluster, until, untilIdle } from './support/cluster.js'

let cluster: TestCluster
let digest = ''

beforeAll(async () => {
  cluster = await TestCluster.start({ agents: [gpu(), fpga('fpga-0')] })
  const { devices } = (await cluster.json('/v1/cluster')) as {
    devices: { models: { digest: string }[] }[]
  }
  digest = devices[0]?.models[0]?.digest ?? ''
})
afterAll(() => cluster?.stop())

async function control(): Promise<string> {
  const device = (await cluster.cluster()).devices.find((d) => d.deviceId === 'fpga-0')
  return device?.endpoints.control ?? ''
}

async function withKv<T>(run: (client: KvServiceClient) => Promise<T>): Promise<T> {
  const client = createRpcClient(KvServiceClient, await control(), {})
  try {
    return await run(client)
  } finally {
    client.close()
  }
}

const reservation = (requestId: string, tokens = 100): ReserveRequest => ({
  requestId,
  epoch: 1,
  modelDigest: digest,
  tokens,
  profile: Profile.EXACT,
})

async function failure(work: Promise<unknown>): Promise<KvasirError> {
  return work.then(
    () => {
      throw new Error('it should have been refused')
    },
    (error: unknown) => KvasirError.from(error),
  )
}

function rawReserve(address: string, metadata: Metadata): Promise<ReserveResponse> {
  const client = new Client(address, credentials.createInsecure())
  return new Promise<ReserveResponse>((done, fail) => {
    client.makeUnaryRequest(
      '/kvasir.kv.v1.KvService/Reserve',
      (message: ReserveRequest) => Buffer.from(ReserveRequest.encode(message).finish()),
      (bytes) => ReserveResponse.decode(bytes),
      reservation('raw'),
      metadata,
      { deadline: Date.now() + 5_000 },
      (error, response) => (response ? done(response) : fail(error)),
    )
  }).finally(() => client.close())
}

test('a peer of another protocol version, or of none, is refused by both versions', async () => {
  const other = new Metadata()
  other.set('kvasir-protocol', '99')
  for (const [metadata, named] of [
    [other, /99/],
    [new Metadata(), /version/],
  ] as const) {
    const error = await rawReserve(await control(), metadata).then(
      () => undefined,
      (reason: { code: number; details: string }) => reason,
    )
    expect(error?.code).toBe(status.FAILED_PRECONDITION)
    expect(error?.details).toMatch(named)
  }
})

test('a missing field is named, an unknown model refused', async () => {
  await withKv(async (client) => {
    const missing = await failure(callUnary(client, 'reserve', { ...reservation(''), requestId: '' }))
    expect(missing.code).toBe('invalid_input')
    expect(missing.message).toMatch(/request_?id/i)
    const unknown = await failure(callUnary(client, 'reserve', { ...reservation('r'), modelDigest: 'abc' }))
    expect(unknown.message).toContain('abc')
  })
})

test('more than the tier holds is refused, and the tier is never over its capacity', async () => {
  await withKv(async (client) => {
    const leases: Lease[] = []
    const error = await failure(
      (async () => {
        for (let i = 0; i < 100; i++) {
          const response = await callUnary(client, 'reserve', reservation(`big-${i}`, 4_096))
          if (response.lease) leases.push(response.lease)
        }
      })(),
    )
    expect(error.code).toBe('overloaded')
    await Promise.all(leases.map((lease) => callUnary(client, 'release', { lease })))
  })
  await untilIdle(cluster)
})

test('a lease that nobody uses ends after its time to live', async () => {
  const lease = await withKv(
    async (client) => (await callUnary(client, 'reserve', reservation('idle'))).lease,
  )
  // Reports lag by up to 500 ms: without first seeing the lease, its absence would mean nothing.
  await until('the lease is reported', async () =>
    (await cluster.cluster()).devices.some((d) => d.deviceId === 'fpga-0' && d.leases > 0),
  )
  await untilIdle(cluster, Number(lease?.ttlMs) + 2_000)
  await withKv(async (client) => {
    const error = await failure(callUnary(client, 'extend', { lease, tokens: 200 }))
    expect(error.code).toBe('lease_expired')
  })
})

test('a lease of an earlier life is refused', async () => {
  const lease = await withKv(async (client) => (await callUnary(client, 'reserve', reservation('old'))).lease)
  await cluster.kill('fpga-0')
  await cluster.startAgent('fpga-0')
  await until('the new life is known', async () => {
    const device = (await cluster.cluster()).devices.find((d) => d.deviceId === 'fpga-0')
    return device?.state === 'ready' && device.incarnation !== String(lease?.incarnation)
  })
  await withKv(async (client) => {
    const extended = await failure(callUnary(client, 'extend', { lease, tokens: 200 }))
    expect(extended.code).toBe('lease_expired')
  })
  const client: InferenceServiceClient = createRpcClient(Inference, await control(), {})
  const decoded = await failure(
    (async () => {
      const stream = callServerStream(client, 'decode', {
        sequence: {
          requestId: 'old',
          epoch: 1,
          modelDigest: digest,
          profile: Profile.EXACT,
          tenantSalt: Buffer.alloc(0),
        },
        lease,
        tokens: [0, 1, 2],
        firstIndex: 0,
        maxTokens: 4,
        sampling: GREEDY,
        source: undefined,
      })
      for await (const _ of stream);
    })(),
  )
  client.close()
  expect(decoded.code).toBe('lease_expired')
})
