/**
 * The coordinator's HTTP server: OpenAI's API, Kvasir's own views, health, metrics, traces.
 *
 * Invariants: every error, also the framework's own, has OpenAI's shape; every response
 * carries its request id; a request body is read to a bound.
 */
import { randomBytes } from 'node:crypto'
import type { AddressInfo } from 'node:net'
import { messageOf } from '@kvasir/runtime/errors'
import {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  fastify,
} from 'fastify'
import { ApiError } from './api-error.js'
import { createApiKeys } from './api-keys.js'
import { limitArrival } from './arrival-limit.js'
import { registerCorporaRoutes } from './corpora-routes.js'
import { Exchanges, newRequestId } from './exchanges.js'
import type { GatewayContext } from './gateway-context.js'
import { registerGenerationRoutes } from './generation-routes.js'
import { parseJsonBody } from './json-body.js'
import { registerKvRoutes } from './kv-routes.js'
import { createMetrics } from './metrics.js'
import { registerModelRoutes } from './model-routes.js'
import { registerReadRoutes } from './read-routes.js'
import { drainRefusedBody } from './refused-body.js'
import { registerTraceRoutes } from './trace-routes.js'
import { answerUnreadable } from './unreadable-request.js'

/** The head of a request must have arrived within this time; its body: arrival-limit.ts. */
const HEADERS_TIMEOUT_MS = 60_000
/** Paths that need no key: probes come without one. */
const OPEN_PATHS = /^\/health\//

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Its body has bounds of its own. */
    isUpload?: boolean
  }
}

export interface Gateway {
  readonly app: FastifyInstance
  /** Path under which agents post traces: base of their OTLP URL. */
  readonly intakePath: string
  /** Throws what the socket throws, such as EADDRINUSE; may then be called again with another port. */
  listen(host: string, port: number): Promise<AddressInfo>
  /** Refuses new requests, finishes those under way, up to the deadline. */
  drain(deadlineMs: number): Promise<void>
  /** Closes every connection. */
  close(): Promise<void>
}

export async function createGateway(gateway: GatewayContext): Promise<Gateway> {
  const app = fastify({
    bodyLimit: gateway.limits.bodyBytesMax,
    genReqId: newRequestId,
    logger: false,
    routerOptions: { maxParamLength: 500 },
    clientErrorHandler: answerUnreadable,
    frameworkErrors: (error, request, reply) => answerError(error, request, reply),
    http: { keepAlive: true, keepAliveInitialDelay: 5_000, headersTimeout: HEADERS_TIMEOUT_MS },
  })
  const metrics = createMetrics(gateway.service, gateway.traces)
  const exchanges = new Exchanges(gateway, metrics)
  const keys = createApiKeys(gateway.apiKeys)
  // Agents hold no API key; they learn this path over the bus, which only they can read.
  const intakePath = gateway.apiKeys.length === 0 ? '' : `/intake/${randomBytes(16).toString('hex')}`

  app.removeAllContentTypeParsers()
  app.addContentTypeParser(
    'application/json',
    { parseAs: 'buffer' },
    async (_request: FastifyRequest, body: Buffer) => parseJsonBody(body),
  )

  app.addHook('onRequest', async (request, reply) => {
    nameRequest(request, reply)
    if (request.routeOptions.config.isUpload !== true) limitArrival(request.raw, reply.raw)
    const isOpen =
      OPEN_PATHS.test(request.url) || (intakePath !== '' && request.url.startsWith(`${intakePath}/`))
    if (!isOpen) keys.tenantSalt(request.headers.authorization)
    if (request.headers['content-encoding'] !== undefined) throw compressedBody()
  })
  app.setErrorHandler(answerError)
  app.setNotFoundHandler((request, reply) =>
    answerError(
      new ApiError({
        status: 404,
        message: `There is no ${request.method} ${request.url.split('?')[0]} here. See docs/api.md for what there is.`,
        code: 'unknown_url',
      }),
      request,
      reply,
    ),
  )

  registerGenerationRoutes(app, gateway, exchanges, keys)
  registerReadRoutes(app, gateway, exchanges, metrics, keys)
  registerModelRoutes(app, gateway)
  registerKvRoutes(app, gateway.service)
  registerTraceRoutes(app, gateway, intakePath)
  registerCorporaRoutes(app, gateway, exchanges, keys)
  await app.ready()

  function answerError(
    thrown: FastifyError | Error | unknown,
    request: FastifyRequest,
    reply: FastifyReply,
  ): void {
    // Of a path that cannot be read no hook ran.
    nameRequest(request, reply)
    const error = exchanges.failed(request, thrown)
    if (error.retryAfterMs !== undefined) {
      reply.header('retry-after', String(Math.max(1, Math.ceil(error.retryAfterMs / 1000))))
    }
    if (error.status === 401) reply.header('www-authenticate', 'Bearer')
    drainRefusedBody(request, reply)
    void reply.code(error.status).send(error.body)
  }

  return {
    app,
    intakePath,
    listen: (host, port) => listen(app, host, port),
    drain: (deadlineMs) => exchanges.drain(deadlineMs),
    async close() {
      const closing = app.close()
      app.server.closeAllConnections()
      await closing
    },
  }
}

function nameRequest(request: FastifyRequest, reply: FastifyReply): void {
  reply.header('x-kvasir-request-id', request.id)
  // Where OpenAI's clients look for it.
  reply.header('x-request-id', request.id)
}

/** Unpacking would need bounds of its own; JSON of the size accepted here needs no packing. */
function compressedBody(): ApiError {
  return new ApiError({
    status: 415,
    message: 'Compressed bodies are not accepted. Send it as it is, without "Content-Encoding".',
    code: 'unsupported_media_type',
  })
}

function listen(app: FastifyInstance, host: string, port: number): Promise<AddressInfo> {
  const { server } = app
  return new Promise((resolve, reject) => {
    const onError = (error: Error) => {
      server.off('listening', onListening)
      reject(error)
    }
    const onListening = () => {
      server.off('error', onError)
      const address = server.address()
      if (address === null || typeof address === 'string')
        reject(new Error(`no address: ${messageOf(address)}`))
      else resolve(address)
    }
    server.once('error', onError)
    server.once('listening', onListening)
    server.listen({ host, port })
  })
}
