/** A device that searches shards, and an owner of corpora that does what a test says, both on real gRPC. */
import type { DeviceDriver } from '@kvasir/engine/device-driver'
import type { KernelInput, KernelOutput, SearchKernelName } from '@kvasir/engine/kernels'
import { ShardStoreDevice } from '@kvasir/engine/testing/shard-store-device'
import {
  CorpusServiceClient,
  type ExportShardRequest,
  type ShardChunk,
} from '@kvasir/proto/kvasir/memory/v1/corpus'
import { startBulkServer } from '@kvasir/runtime/bulk-server'
import { systemClock } from '@kvasir/runtime/clock'
import { CorpusBulkService } from '@kvasir/runtime/corpus-bulk'
import { createLogger } from '@kvasir/runtime/log'
import { createRpcClient } from '@kvasir/runtime/rpc-client'
import { type CallContext, type RpcServer, type Send, serverStream } from '@kvasir/runtime/rpc-server'
import { checksumOf } from '../checksum.js'
import { type ServingDevice, startServingDevice } from '../serving-device.js'
import { agentSettings } from '../settings.js'
import { corpusRefusals } from '../shard-refusals.js'
import { shardService } from '../shard-service.js'
import { FAKE_MODEL, FakeDriver } from './fake-driver.js'
import { poolBlockBytes } from './pool-bytes.js'
import { fakeDefinition } from './test-devices.js'

export interface SearchingDevice {
  readonly serving: ServingDevice
  readonly client: CorpusServiceClient
  close(): Promise<void>
}

/** @param before awaited before each kernel; a test holds or fails the device with it */
export async function startSearchingDevice(
  shardBytes: number,
  before: (kernel: SearchKernelName) => Promise<void> = async () => {},
): Promise<SearchingDevice> {
  const definition = fakeDefinition('fpga')
  const driver = { create: async () => new SearchingDriver(before) }
  const blockBytes = await poolBlockBytes(driver, FAKE_MODEL)
  const serving = await startServingDevice({
    definition: {
      ...definition,
      capabilities: [...definition.capabilities, 'CAPABILITY_RETRIEVE'],
      driver,
      services: [shardService],
    },
    settings: agentSettings.parse({
      deviceId: 'searcher',
      model: FAKE_MODEL,
      tierBytes: 64 * blockBytes,
      shardBytes,
    }),
    clock: systemClock,
    log: createLogger({ service: 'searcher', terminal: false }),
  })
  const client = createRpcClient(CorpusServiceClient, serving.control.address)
  return {
    serving,
    client,
    async close() {
      client.close()
      await serving.close()
    },
  }
}

class SearchingDriver extends FakeDriver implements DeviceDriver {
  private readonly shards = new ShardStoreDevice()

  constructor(private readonly before: (kernel: SearchKernelName) => Promise<void>) {
    super()
  }

  override describe() {
    const { kernels } = this.shards.describe()
    return { ...super.describe(), kernels: [...super.describe().kernels, ...kernels] }
  }

  override async runKernel<Name extends SearchKernelName>(
    name: Name,
    input: KernelInput<Name>,
  ): Promise<KernelOutput<Name>> {
    await this.before(name)
    return this.shards.runKernel(name, input)
  }
}

/** What an owner does when a shard is asked for. */
export type Exporting = (
  request: ExportShardRequest,
  send: Send<ShardChunk>,
  call: CallContext,
) => Promise<void>

export function startOwner(exporting: Exporting): Promise<RpcServer> {
  return startBulkServer({
    host: '127.0.0.1',
    port: 0,
    services: [
      {
        definition: CorpusBulkService,
        implementation: {
          ...corpusRefusals('owner'),
          export: serverStream((request, call, send) => exporting(request, send, call)),
        },
      },
    ],
  })
}

export function chunkOf(bytes: Uint8Array): ShardChunk {
  const data = Buffer.from(bytes)
  return { data, checksum: checksumOf(data) }
}
