/**
 * What every call carries beside its message: trace context and protocol version, in
 * gRPC metadata.
 */
import type { Metadata } from '@grpc/grpc-js'
import { type Context, context, propagation, ROOT_CONTEXT } from '@opentelemetry/api'
import { PROTOCOL_METADATA, PROTOCOL_VERSION } from './protocol.js'

/** Writes the caller's trace context and our protocol version. */
export function writeCallMetadata(metadata: Metadata): void {
  metadata.set(PROTOCOL_METADATA, String(PROTOCOL_VERSION))
  propagation.inject(context.active(), metadata, {
    set: (carrier, key, value) => carrier.set(key, value),
  })
}

/** The trace context that a caller sent; the root context where it sent none. */
export function readTraceContext(metadata: Metadata): Context {
  return propagation.extract(ROOT_CONTEXT, metadata, {
    keys: (carrier) => Object.keys(carrier.getMap()),
    get: (carrier, key) => carrier.get(key).filter((value) => typeof value === 'string'),
  })
}

/** The protocol version that a caller told; undefined where it told none or nonsense. */
export function readProtocolVersion(metadata: Metadata): number | undefined {
  const value = metadata.get(PROTOCOL_METADATA)[0]
  return typeof value === 'string' && /^\d{1,9}$/.test(value) ? Number(value) : undefined
}
