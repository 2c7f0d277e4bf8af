/**
 * gRPC clients of devices, one set for each life of a device, so that a restarted
 * agent never inherits a broken connection. Opened on first use, closed when the core
 * forgets the device.
 */
import { InferenceServiceClient } from '@kvasir/proto/kvasir/inference/v1/inference'
import { KvServiceClient } from '@kvasir/proto/kvasir/kv/v1/kv'
import { ModelServiceClient } from '@kvasir/proto/kvasir/model/v1/model'
import { UnreachableError } from '@kvasir/runtime/errors'
import { createRpcClient } from '@kvasir/runtime/rpc-client'
import type { DeviceRef } from '../core/facts.js'
import type { ClusterWatch } from './cluster-watch.js'

export interface DeviceClient {
  readonly inference: InferenceServiceClient
  readonly kv: KvServiceClient
  readonly models: ModelServiceClient
}

export class DeviceClients {
  readonly #watch: ClusterWatch
  readonly #clients = new Map<string, DeviceClient>()

  constructor(watch: ClusterWatch) {
    this.#watch = watch
  }

  /** Throws UnreachableError where that life of the device is not known any more. */
  of(device: DeviceRef): DeviceClient {
    const key = keyOf(device)
    const open = this.#clients.get(key)
    if (open) return open
    const endpoints = this.#watch.advertisement(device)?.endpoints
    if (!endpoints) {
      const ids = { deviceId: device.deviceId }
      throw new UnreachableError(`Device ${device.deviceId} has left; place the request on another.`, { ids })
    }
    const options = { channelKey: `coordinator-${device.incarnation}` }
    const client = {
      inference: createRpcClient(InferenceServiceClient, endpoints.control, options),
      kv: createRpcClient(KvServiceClient, endpoints.control, options),
      models: createRpcClient(ModelServiceClient, endpoints.kv, options),
    }
    this.#clients.set(key, client)
    return client
  }

  /** Where others call its services, host:port; undefined where that life of the device is not known any more. */
  controlEndpoint(device: DeviceRef): string | undefined {
    return this.#watch.advertisement(device)?.endpoints?.control
  }

  /** Where others pull KV from, host:port; undefined where that life of the device is not known any more. */
  kvEndpoint(device: DeviceRef): string | undefined {
    return this.#watch.advertisement(device)?.endpoints?.kv
  }

  forget(device: DeviceRef): void {
    const key = keyOf(device)
    const client = this.#clients.get(key)
    this.#clients.delete(key)
    if (client) closeAll(client)
  }

  close(): void {
    for (const client of this.#clients.values()) closeAll(client)
    this.#clients.clear()
  }
}

function closeAll({ inference, kv, models }: DeviceClient): void {
  for (const client of [inference, kv, models]) client.close()
}

function keyOf(device: DeviceRef): string {
  return `${device.deviceId}/${device.incarnation}`
}
