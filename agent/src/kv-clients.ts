/**
 * Clients for the KV endpoints of other devices: a connection of their own with a large
 * window, kept for the next transfer. Bounded, since endpoints change with every restart.
 */
import type { KvServiceClient } from '@kvasir/proto/kvasir/kv/v1/kv'
import { KvBulkClient } from '@kvasir/runtime/kv-bulk'
import { createRpcClient } from '@kvasir/runtime/rpc-client'
import { BULK_WINDOW_BYTES } from '@kvasir/runtime/rpc-limits'

const CLIENTS_MAX = 32

export class KvClients {
  /** Least recently used first. */
  private readonly clients = new Map<string, KvServiceClient>()

  get(endpoint: string): KvServiceClient {
    const client =
      this.clients.get(endpoint) ??
      createRpcClient(KvBulkClient, endpoint, { windowBytes: BULK_WINDOW_BYTES, channelKey: 'kv' })
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
