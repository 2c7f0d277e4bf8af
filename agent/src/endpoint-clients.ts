/**
 * Clients for the endpoints of other devices, each with a connection that is kept for the next call.
 * Bounded, since endpoints change with every restart.
 */
import { KvServiceClient } from '@kvasir/proto/kvasir/kv/v1/kv'
import { MemoryServiceClient } from '@kvasir/proto/kvasir/memory/v1/memory'
import { type KvPullClient, kvPullClient } from '@kvasir/runtime/kv-bulk'
import { createRpcClient } from '@kvasir/runtime/rpc-client'

const CLIENTS_MAX = 32

export class EndpointClients<Client extends { close(): void }> {
  /** Least recently used first. */
  private readonly clients = new Map<string, Client>()

  constructor(private readonly create: (endpoint: string) => Client) {}

  get(endpoint: string): Client {
    const client = this.clients.get(endpoint) ?? this.create(endpoint)
    this.clients.delete(endpoint)
    this.clients.set(endpoint, client)
    const [oldest] = this.clients
    if (this.clients.size > CLIENTS_MAX && oldest !== undefined) {
      this.clients.delete(oldest[0])
      // Its open calls go on; only the next one needs a new client.
      oldest[1].close()
    }
    return client
  }

  close(): void {
    for (const client of this.clients.values()) client.close()
    this.clients.clear()
  }
}

/** For KV endpoints: a connection of its own, made for bulk data. */
export function bulkClient(endpoint: string): KvPullClient {
  return kvPullClient(endpoint)
}

/** For Offer, at control endpoints. */
export function offerClient(endpoint: string): KvServiceClient {
  return createRpcClient(KvServiceClient, endpoint)
}

/** For attention, at control endpoints: a connection that nothing else delays. */
export function attendClient(endpoint: string): MemoryServiceClient {
  return createRpcClient(MemoryServiceClient, endpoint, { channelKey: 'attend' })
}
