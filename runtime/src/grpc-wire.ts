/**
 * How gRPC stands in HTTP/2: messages with a prefix of five bytes, and what a call says in headers and trailers.
 */
import { Metadata, type ServiceError, status } from '@grpc/grpc-js'
import { takeBuffer } from './bulk-buffers.js'
import type { Header } from './http2/hpack-tables.js'
import { H2 } from './http2/http2-error.js'
import { MESSAGE_BYTES_MAX } from './rpc-limits.js'

const PREFIX_BYTES = 5
/** Fewer bytes are copied. */
const ROOM_BYTES_MIN = 64 << 10
/** Headers of HTTP/2 and gRPC that are no metadata. */
const RESERVED = /^(:|grpc-(status|message|timeout|encoding|accept-encoding)$|(te|content-type|user-agent)$)/

/** What a call ends with, where it does not end well. */
export function statusError(code: status, details: string, metadata = new Metadata()): ServiceError {
  return Object.assign(new Error(`${code} ${status[code]}: ${details}`), { code, details, metadata })
}

/** A message as it goes out. */
export function framed(parts: readonly Uint8Array[]): Uint8Array[] {
  const bytes = parts.reduce((sum, { length }) => sum + length, 0)
  const prefix = Buffer.alloc(PREFIX_BYTES)
  prefix.writeUInt32BE(bytes, 1)
  return [prefix, ...parts]
}

export interface MessageSink {
  /** A message is whole; `wireBytes` with its prefix. */
  message(message: Buffer, wireBytes: number): void
  /** One of so many bytes has begun. */
  begun(wireBytes: number): void
}

/** Puts messages together from the bytes of a stream, each in memory of its own. */
export class MessageReader {
  private readonly prefix = Buffer.alloc(PREFIX_BYTES)
  private prefixAt = 0
  private message: Buffer | undefined
  private at = 0

  constructor(private readonly sink: MessageSink) {}

  /** Whether nothing is cut off where the stream ends here. */
  get isBetween(): boolean {
    return this.prefixAt === 0
  }

  /** Throws ServiceError for a message that is too large or compressed. */
  feed(bytes: Buffer): void {
    let from = 0
    while (from < bytes.length || (this.message !== undefined && this.at === this.message.length)) {
      if (this.message === undefined) {
        const taken = bytes.copy(this.prefix, this.prefixAt, from)
        this.prefixAt += taken
        from += taken
        if (this.prefixAt < PREFIX_BYTES) return
        this.message = this.begin()
        this.at = 0
      }
      const taken = bytes.copy(this.message, this.at, from)
      this.at += taken
      from += taken
      if (this.at < this.message.length) return
      this.finish(this.message)
    }
  }

  /** Where at most `bytes` more should be put; undefined where they are too few, or no message has begun. */
  room(bytes: number): Buffer | undefined {
    const { message, at } = this
    const most = Math.min(bytes, (message?.length ?? 0) - at)
    return most < ROOM_BYTES_MIN ? undefined : message?.subarray(at, at + most)
  }

  /** So many bytes are in the room. */
  filled(bytes: number): void {
    this.at += bytes
    if (this.message !== undefined && this.at === this.message.length) this.finish(this.message)
  }

  private finish(message: Buffer): void {
    this.message = undefined
    this.prefixAt = 0
    this.sink.message(message, PREFIX_BYTES + message.length)
  }

  private begin(): Buffer {
    const length = this.prefix.readUInt32BE(1)
    if (this.prefix[0] !== 0) {
      throw statusError(status.UNIMPLEMENTED, 'Compressed messages are not taken; send them as they are.')
    }
    if (length > MESSAGE_BYTES_MAX) {
      const details = `Received message larger than max (${length} vs ${MESSAGE_BYTES_MAX})`
      throw statusError(status.RESOURCE_EXHAUSTED, details)
    }
    this.sink.begun(PREFIX_BYTES + length)
    return takeBuffer(length)
  }
}

export function metadataHeaders(metadata: Metadata): Header[] {
  return Object.entries(metadata.toHttp2Headers()).flatMap(([name, values]) =>
    [values].flat().map((value): Header => [name, String(value)]),
  )
}

export function metadataOf(headers: readonly Header[]): Metadata {
  const metadata = new Metadata()
  for (const [name, value] of headers) {
    if (RESERVED.test(name)) continue
    if (!name.endsWith('-bin')) metadata.add(name, value)
    else for (const part of value.split(',')) metadata.add(name, Buffer.from(part, 'base64'))
  }
  return metadata
}

export function headerOf(headers: readonly Header[], name: string): string | undefined {
  return headers.find(([found]) => found === name)?.[1]
}

export function trailersOf({
  code,
  details,
  metadata,
}: Pick<ServiceError, 'code' | 'details' | 'metadata'>): Header[] {
  return [
    ['grpc-status', String(code)],
    ...(details === '' ? [] : [['grpc-message', encodeURI(details)] as const]),
    ...metadataHeaders(metadata ?? new Metadata()),
  ]
}

/** What trailers say; undefined where all is well. */
export function errorOfTrailers(headers: readonly Header[]): ServiceError | undefined {
  const told = headerOf(headers, 'grpc-status')
  const code = told === undefined ? httpCode(headers) : Number(told)
  if (code === status.OK) return undefined
  const known = status[code] === undefined ? status.UNKNOWN : code
  const message = headerOf(headers, 'grpc-message')
  return statusError(known, message === undefined ? '' : decoded(message), metadataOf(headers))
}

/** An answer without a status is not from a gRPC server, or its connection broke. */
function httpCode(headers: readonly Header[]): status {
  const http = headerOf(headers, ':status')
  if (http === '404') return status.UNIMPLEMENTED
  return http === undefined || http === '200' ? status.UNKNOWN : status.UNAVAILABLE
}

/** What a stream that the peer has reset means. */
export function errorOfReset(code: number): ServiceError {
  const details = `The peer ended the call with RST_STREAM, code ${code}.`
  if (code === H2.refused) return statusError(status.UNAVAILABLE, details)
  if (code === H2.cancel) return statusError(status.CANCELLED, details)
  if (code === H2.calm) return statusError(status.RESOURCE_EXHAUSTED, details)
  return statusError(status.INTERNAL, details)
}

const UNITS: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1_000, m: 1, u: 1e-3, n: 1e-6 }

/** Milliseconds that a caller allows; undefined where it sets no deadline. */
export function timeoutOf(headers: readonly Header[]): number | undefined {
  const told = /^(\d{1,8})([HMSmun])$/.exec(headerOf(headers, 'grpc-timeout') ?? '')
  return told === null ? undefined : Number(told[1]) * (UNITS[told[2] ?? ''] ?? 1)
}

/** At most eight digits go into the header. */
export function timeoutHeader(ms: number): Header {
  const whole = Math.max(1, Math.ceil(ms))
  return ['grpc-timeout', whole < 1e8 ? `${whole}m` : `${Math.min(99_999_999, Math.ceil(whole / 1_000))}S`]
}

function decoded(message: string): string {
  try {
    return decodeURIComponent(message)
  } catch {
    return message
  }
}
