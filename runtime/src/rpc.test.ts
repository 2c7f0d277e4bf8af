/** The transport of control calls: grpc-js on both sides. */
import { KvServiceClient, type KvServiceServer, KvServiceService } from '@kvasir/proto/kvasir/kv/v1/kv'
import { expect, test } from 'vitest'
import { InternalError } from './errors.js'
import { callUnary, createRpcClient } from './rpc-client.js'
import { bidi, clientStream, serverStream, startRpcServer, unary } from './rpc-server.js'
import { rpcSuite } from './testing/rpc-suite.js'

rpcSuite({
  start: startRpcServer,
  connect: (address, options) => createRpcClient(KvServiceClient, address, options),
})

test('clients share a connection by their key', async () => {
  const peers = new Set<string>()
  const absent = async (): Promise<never> => {
    throw new InternalError('this method is not part of the test')
  }
  const implementation: KvServiceServer = {
    reserve: unary(async (_request, call) => {
      peers.add(call.peer)
      return { lease: undefined, tokens: 16 }
    }),
    extend: unary(absent),
    release: unary(absent),
    pull: bidi(absent),
    push: clientStream(absent),
    snapshot: serverStream(absent),
    offer: unary(absent),
  }
  const services = [{ definition: KvServiceService, implementation }]
  const server = await startRpcServer({ host: '127.0.0.1', port: 0, services })
  const request = {
    requestId: 'r',
    epoch: 1,
    modelDigest: 'd',
    tokens: 17,
    profile: 'PROFILE_EXACT',
  } as const
  const clients = ['control', 'control', 'kv'].map((channelKey) =>
    createRpcClient(KvServiceClient, server.address, { channelKey }),
  )
  for (const client of clients) await callUnary(client, 'reserve', request)
  for (const client of clients) client.close()
  await server.close()
  expect(peers.size).toBe(2)
})
