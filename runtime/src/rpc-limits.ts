/**
 * Bounds and timings of gRPC connections, the same on both sides.
 */
import type { ChannelOptions } from '@grpc/grpc-js'

/** Largest message either side sends or takes. */
export const MESSAGE_BYTES_MAX = 64 << 20
/** Deadline of a unary call whose caller sets none. */
export const UNARY_DEADLINE_MS = 10_000
/** Longest wait for a connection to open before a call counts as failed. */
export const CONNECT_DEADLINE_MS = 2_000
/** Calls that one connection may have open at a time. */
export const CONCURRENT_CALLS_MAX = 1_024
/** HTTP/2 window of a connection that receives bulk data. */
export const BULK_WINDOW_BYTES = 16 << 20

/**
 * A peer that is cut off without a reset is noticed after at most 0.5 + 1.5 s. The longer
 * part is the wait for the answer, so that a busy event loop is not taken for a lost one.
 */
export const CLIENT_KEEPALIVE_MS = 500
export const CLIENT_KEEPALIVE_TIMEOUT_MS = 1_500
/** Idle connections are pinged by the server alone, and less often. */
export const SERVER_KEEPALIVE_MS = 1_000
export const SERVER_KEEPALIVE_TIMEOUT_MS = 1_500

export const SERVER_OPTIONS: ChannelOptions = {
  'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
  'grpc.max_send_message_length': MESSAGE_BYTES_MAX,
  'grpc.max_concurrent_streams': CONCURRENT_CALLS_MAX,
  'grpc.keepalive_time_ms': SERVER_KEEPALIVE_MS,
  'grpc.keepalive_timeout_ms': SERVER_KEEPALIVE_TIMEOUT_MS,
  // Without channelz the server of grpc-js 1.14 keeps no list of its connections, and a
  // forced shutdown leaves them all open.
  'grpc.enable_channelz': 1,
}

export const CLIENT_OPTIONS: ChannelOptions = {
  'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
  'grpc.max_send_message_length': MESSAGE_BYTES_MAX,
  'grpc.keepalive_time_ms': CLIENT_KEEPALIVE_MS,
  'grpc.keepalive_timeout_ms': CLIENT_KEEPALIVE_TIMEOUT_MS,
  'grpc.keepalive_permit_without_calls': 0,
  // A lost peer is retried soon: devices come back within seconds.
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 1_000,
  // With retries the transport buffers what is sent, and back-pressure is gone.
  'grpc.enable_retries': 0,
  'grpc.service_config_disable_resolution': 1,
  // Devices are in the cluster's own network, whatever proxy the environment names.
  'grpc.enable_http_proxy': 0,
  'grpc.enable_channelz': 0,
}
