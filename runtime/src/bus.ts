/**
 * NATS as the cluster uses it: events that may be lost, requests, buckets of what may
 * not, and services that standard tools list.
 *
 * Invariants:
 * B1 Reconnects for ever. While the connection is down, `publish` drops and never throws.
 * B2 A server that is gone is noticed at once; one that no longer answers within
 *    PING_MS × (PINGS_MAX + 1). `onStatus` then says false, before anything else is lost.
 * B3 A handler that throws, or a message that is no JSON, is logged and ends nothing.
 * B4 Subscriptions and services survive reconnects; buckets and watches survive a server
 *    that lost its store (bucket.ts).
 */
import { jetstream } from '@nats-io/jetstream'
import { Svcm } from '@nats-io/services'
import { connect, errors, type Msg, type NatsConnection } from '@nats-io/transport-node'
import { type Bucket, openBucket } from './bucket.js'
import { delay, withDeadline } from './deferred.js'
import {
  CorruptDataError,
  DeadlineError,
  errorOf,
  InvalidInputError,
  isErrorCode,
  KvasirError,
  messageOf,
  NotFoundError,
  UnavailableError,
} from './errors.js'
import type { Logger } from './log.js'

export type { Bucket, BucketEntry } from './bucket.js'

const PING_MS = 500
const PINGS_MAX = 2
const RECONNECT_MS = 200
const RECONNECT_JITTER_MS = 100
/** First connection: longest wait for one try, and for all of them. */
const CONNECT_TRY_MS = 2_000
const CONNECT_MS = 10_000
const DRAIN_MS = 2_000

export interface BusOptions {
  /** nats://[user:password@]host:port */
  readonly url: string
  /** Shown by NATS tools. */
  readonly name: string
  readonly log?: Logger
  /** How long to try for the first connection. */
  readonly connectTimeoutMs?: number
}

export interface BusSubscription {
  unsubscribe(): void
}

export interface ServiceOptions {
  /** Letters, digits, `-` and `_`. */
  readonly name: string
  /** Three numbers, such as 0.1.0. */
  readonly version: string
  readonly description: string
  readonly metadata?: Readonly<Record<string, string>>
  /** Request handlers by endpoint name. */
  readonly endpoints?: Readonly<Record<string, { readonly subject: string; handler: RequestHandler }>>
}

/** Answers a request; what it throws reaches the caller as an error with its code. */
export type RequestHandler = (request: unknown, subject: string) => Promise<object> | object
export type MessageHandler = (message: unknown, subject: string) => void

export interface Bus {
  readonly connected: boolean
  /** Calls `listener` at every change, not for the present state. Returns a function that stops it. */
  onStatus(listener: (connected: boolean) => void): () => void
  /** Sends and forgets; dropped while the connection is down. */
  publish(subject: string, data: object): void
  /** Messages of a subject; `*` and `>` are wildcards. Each handler call gets parsed JSON. */
  subscribe(subject: string, handler: MessageHandler): BusSubscription
  /** A key-value bucket, created when it does not exist. Opening does not wait for the server. */
  bucket(name: string, options: { readonly ttlMs: number }): Bucket
  /** One request, one answer. Throws UnavailableError when down, DeadlineError, or the answerer's error. */
  request(subject: string, data: object, timeoutMs: number): Promise<unknown>
  respond(subject: string, handler: RequestHandler): BusSubscription
  /** Announces a service to `nats micro list` and answers its endpoints, until the bus closes. */
  service(options: ServiceOptions): Promise<void>
  /** Sends what is buffered and ends, within a bound. */
  close(): Promise<void>
}

/** Throws InvalidInputError for a URL that is none, UnavailableError when no server answers in time. */
export async function connectBus(options: BusOptions): Promise<Bus> {
  const connection = await open(options)
  const log = options.log
  const listeners = new Set<(connected: boolean) => void>()
  let connected = true
  let closed: Promise<void> | undefined

  const setConnected = (now: boolean) => {
    if (now === connected) return
    connected = now
    if (closed !== undefined) return
    log?.[now ? 'info' : 'warn']({ url: options.url }, now ? 'NATS is back' : 'NATS is gone; reconnecting')
    for (const listener of [...listeners]) guarded(log, () => listener(now))
  }
  void followStatus(connection, setConnected, log)

  const onStatus = (listener: (connected: boolean) => void) => {
    listeners.add(listener)
    return () => void listeners.delete(listener)
  }
  const answer = async (message: Msg, handler: RequestHandler) => {
    const reply = await replyOf(message, handler)
    guarded(log, () => message.respond(JSON.stringify(reply)))
  }

  return {
    get connected() {
      return connected
    },
    onStatus,
    publish(subject, data) {
      if (!connected) return
      guarded(log, () => connection.publish(subject, JSON.stringify(data)))
    },
    subscribe(subject, handler) {
      return connection.subscribe(subject, {
        callback(error, message) {
          if (error === null) guarded(log, () => handler(message.json(), message.subject))
        },
      })
    },
    bucket(name, { ttlMs }) {
      return openBucket({
        jetstream: jetstream(connection, { timeout: 2_000 }),
        name,
        ttlMs,
        isConnected: () => connected,
        onStatus,
        ...(log === undefined ? {} : { log }),
      })
    },
    async request(subject, data, timeoutMs) {
      if (!connected) throw busDown()
      try {
        const reply = await connection.request(subject, JSON.stringify(data), { timeout: timeoutMs })
        return openReply(reply.json())
      } catch (error) {
        throw requestError(error, subject, timeoutMs)
      }
    },
    respond(subject, handler) {
      return connection.subscribe(subject, {
        callback(error, message) {
          if (error === null) void answer(message, handler)
        },
      })
    },
    async service({ endpoints = {}, metadata, ...identity }) {
      const service = await new Svcm(connection).add({
        ...identity,
        ...(metadata === undefined ? {} : { metadata: { ...metadata } }),
      })
      for (const [name, endpoint] of Object.entries(endpoints)) {
        service.addEndpoint(name, {
          subject: endpoint.subject,
          handler(error, message) {
            if (error === null) void answer(message, endpoint.handler)
          },
        })
      }
    },
    close() {
      closed ??= (async () => {
        listeners.clear()
        if (connected) await withDeadline(connection.drain(), DRAIN_MS, 'closing NATS').catch(() => {})
        await connection.close().catch(() => {})
      })()
      return closed
    },
  }
}

/** Requests and answers travel as {ok: …} or {error: {code, message, ids}}. */
async function replyOf(message: Msg, handler: RequestHandler): Promise<object> {
  try {
    return { ok: await handler(message.json(), message.subject) }
  } catch (thrown) {
    const { code, message: text, ids, retryAfterMs } = KvasirError.from(thrown)
    return { error: { code, message: text, ids, retryAfterMs } }
  }
}

function openReply(reply: unknown): unknown {
  if (typeof reply !== 'object' || reply === null) throw new CorruptDataError('The answer is not an object.')
  if (!('error' in reply)) return 'ok' in reply ? reply.ok : undefined
  const told = reply.error
  if (typeof told !== 'object' || told === null) throw new CorruptDataError('The answer is malformed.')
  const code = 'code' in told ? String(told.code) : ''
  const message = 'message' in told ? String(told.message) : 'The peer gave no reason.'
  const retryAfterMs = 'retryAfterMs' in told ? Number(told.retryAfterMs) : Number.NaN
  throw errorOf(isErrorCode(code) ? code : 'internal', message, {
    ids: 'ids' in told ? stringsOf(told.ids) : {},
    ...(Number.isFinite(retryAfterMs) ? { retryAfterMs } : {}),
  })
}

function stringsOf(value: unknown): Record<string, string> {
  if (typeof value !== 'object' || value === null) return {}
  return Object.fromEntries(Object.entries(value).map(([key, text]) => [key, String(text)]))
}

function requestError(error: unknown, subject: string, timeoutMs: number): KvasirError {
  if (error instanceof KvasirError) return error
  const ids = { subject }
  if (error instanceof errors.TimeoutError)
    return new DeadlineError(`Nobody answered on ${subject} within ${timeoutMs} ms.`, { ids, cause: error })
  if (error instanceof errors.RequestError && error.isNoResponders())
    return new NotFoundError(`Nobody listens on ${subject}.`, { ids, cause: error })
  return new UnavailableError(`The request on ${subject} failed (${messageOf(error)}); try again.`, {
    ids,
    retryAfterMs: RECONNECT_MS,
    cause: error,
  })
}

function busDown(): UnavailableError {
  return new UnavailableError('The connection to NATS is down; try again when it is back.', {
    retryAfterMs: RECONNECT_MS,
  })
}

/** Tries until a server answers or the time is over: servers and processes start side by side. */
async function open(options: BusOptions): Promise<NatsConnection> {
  const server = parseUrl(options.url)
  const endMs = performance.now() + (options.connectTimeoutMs ?? CONNECT_MS)
  for (;;) {
    try {
      return await connect({
        ...server,
        name: options.name,
        timeout: CONNECT_TRY_MS,
        reconnect: true,
        maxReconnectAttempts: -1,
        reconnectTimeWait: RECONNECT_MS,
        reconnectJitter: RECONNECT_JITTER_MS,
        pingInterval: PING_MS,
        maxPingOut: PINGS_MAX,
        ignoreAuthErrorAbort: true,
        noAsyncTraces: true,
      })
    } catch (error) {
      const refused = error instanceof errors.AuthorizationError
      if (refused || performance.now() + RECONNECT_MS > endMs) {
        const advice = refused
          ? 'check the user and password in the URL'
          : 'start nats-server or correct the URL'
        throw new UnavailableError(
          `Cannot connect to NATS at ${redacted(options.url)} (${messageOf(error)}): ${advice}.`,
          {
            cause: error,
          },
        )
      }
      await delay(RECONNECT_MS)
    }
  }
}

function parseUrl(text: string): { servers: string; user?: string; pass?: string } {
  let url: URL
  try {
    url = new URL(text.includes('://') ? text : `nats://${text}`)
  } catch (error) {
    throw new InvalidInputError(`${JSON.stringify(text)} is not a NATS URL: write nats://host:port.`, {
      param: 'nats',
      cause: error,
    })
  }
  if (!['nats:', 'tls:'].includes(url.protocol) || url.hostname === '')
    throw new InvalidInputError(`${JSON.stringify(text)} is not a NATS URL: write nats://host:port.`, {
      param: 'nats',
    })
  return {
    servers: `${url.protocol}//${url.hostname}:${url.port === '' ? '4222' : url.port}`,
    ...(url.username === '' ? {} : { user: decodeURIComponent(url.username) }),
    ...(url.password === '' ? {} : { pass: decodeURIComponent(url.password) }),
  }
}

/** The URL without its password, for messages and logs. */
function redacted(url: string): string {
  return url.replace(/\/\/[^@/]*@/, '//')
}

async function followStatus(
  connection: NatsConnection,
  setConnected: (connected: boolean) => void,
  log: Logger | undefined,
): Promise<void> {
  for await (const status of connection.status()) {
    switch (status.type) {
      case 'disconnect':
      case 'staleConnection':
      case 'close':
        setConnected(false)
        break
      case 'reconnect':
        setConnected(true)
        break
      case 'error':
        log?.warn({ err: status.error }, 'NATS reports an error')
        break
      default:
        break
    }
  }
}

function guarded(log: Logger | undefined, action: () => void): void {
  try {
    action()
  } catch (error) {
    log?.error({ err: error }, 'a NATS message or its handler failed')
  }
}
