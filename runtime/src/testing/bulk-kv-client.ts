/** A client of all of KvService on the transport for bulk data, which otherwise calls Pull alone. */
import type { CallOptions, Metadata } from '@grpc/grpc-js'
import { type KvServiceClient, KvServiceService } from '@kvasir/proto/kvasir/kv/v1/kv'
import { BulkClient, type BulkClientCall } from '../bulk-client.js'

type Answer = (error: unknown, response?: unknown) => void

class WholeKvClient extends BulkClient {
  reserve(
    request: unknown,
    metadata: Metadata,
    options: Partial<CallOptions>,
    answer: Answer,
  ): BulkClientCall {
    const call = this.call(KvServiceService.reserve, metadata, options)
    let response: unknown
    call.on('data', (message) => {
      response = message
    })
    call.on('error', answer)
    call.on('end', () => {
      if (response !== undefined) answer(null, response)
    })
    call.end(request)
    return call
  }

  snapshot(request: unknown, metadata: Metadata, options: Partial<CallOptions>): BulkClientCall {
    const call = this.call(KvServiceService.snapshot, metadata, options)
    call.end(request)
    return call
  }

  pull(metadata: Metadata, options: Partial<CallOptions>): BulkClientCall {
    return this.call(KvServiceService.pull, metadata, options)
  }
}

export function wholeKvClient(address: string): KvServiceClient {
  return new WholeKvClient(address) as unknown as KvServiceClient
}
