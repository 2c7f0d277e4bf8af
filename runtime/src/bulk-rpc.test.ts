/** The transport of bulk data behaves as grpc-js does, and either end works with grpc-js at the other. */
import { KvServiceClient } from '@kvasir/proto/kvasir/kv/v1/kv'
import { describe } from 'vitest'
import { startBulkServer } from './bulk-server.js'
import { createRpcClient } from './rpc-client.js'
import { startRpcServer } from './rpc-server.js'
import { wholeKvClient } from './testing/bulk-kv-client.js'
import { rpcSuite, type Transport } from './testing/rpc-suite.js'

const bulk: Transport = { start: startBulkServer, connect: wholeKvClient }
const grpc: Transport = {
  start: startRpcServer,
  connect: (address, options) => createRpcClient(KvServiceClient, address, options),
}

describe('both ends', () => rpcSuite(bulk))
describe('a client of grpc-js', () => rpcSuite({ ...bulk, connect: grpc.connect }))
describe('a server of grpc-js', () => rpcSuite({ ...bulk, start: grpc.start }))
