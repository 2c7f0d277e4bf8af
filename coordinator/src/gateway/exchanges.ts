/**
 * The completion requests under way: opens one for each, ends it with its response, and
 * lets a closing server wait for them.
 */
import { randomBytes } from 'node:crypto'
import { type Deferred, deferred, withDeadline } from '@kvasir/runtime/deferred'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { ApiError } from './api-error.js'
import { Exchange, type Operation } from './exchange.js'
import type { GatewayContext } from './gateway-context.js'
import type { GatewayMetrics } from './metrics.js'

export class Exchanges {
  private readonly byRequest = new WeakMap<FastifyRequest, Exchange>()
  private readonly underWay = new Set<Exchange>()
  private idle: Deferred<void> | undefined
  draining = false

  constructor(
    private readonly gateway: GatewayContext,
    private readonly metrics: GatewayMetrics,
  ) {}

  open(
    request: FastifyRequest,
    reply: FastifyReply,
    endpoint: { operation: Operation; route: string },
  ): void {
    if (this.draining) {
      throw new ApiError({
        status: 503,
        message: 'This server is shutting down. Try again; another one may answer.',
        code: 'unavailable',
      })
    }
    const exchange = new Exchange({
      requestId: request.id,
      operation: endpoint.operation,
      route: endpoint.route,
      headers: request.headers,
      clock: this.gateway.clock,
    })
    this.byRequest.set(request, exchange)
    this.underWay.add(exchange)
    this.metrics.requestStarted()
    this.gateway.traces.requestStarted(exchange.traceId)
    if (exchange.traceId !== '') reply.header('x-kvasir-trace-id', exchange.traceId)
    const { raw } = reply
    raw.once('finish', () => this.end(exchange, raw.statusCode))
    raw.once('close', () => {
      if (!raw.writableFinished) exchange.stop('client-gone')
      this.end(exchange, raw.statusCode)
    })
  }

  of(request: FastifyRequest): Exchange {
    const exchange = this.byRequest.get(request)
    if (exchange === undefined) throw new Error('A completion request without an exchange.')
    return exchange
  }

  /** Notes the error that a request is answered with; requests of other routes have no exchange. */
  failed(of: Exchange | FastifyRequest, thrown: unknown): ApiError {
    const error = ApiError.from(thrown)
    const exchange = of instanceof Exchange ? of : this.byRequest.get(of)
    // What goes wrong after the client left concerns nobody.
    if (exchange?.stopped === 'client-gone' || exchange?.stopped === 'slow-client') return error
    exchange?.fail(error)
    const { log } = this.gateway
    // The log's own trace id is the active span's, and none is active here.
    const ids = { requestId: exchange?.requestId, trace_id: exchange?.traceId }
    // What is only unavailable says all in its message; a fault of ours needs its stack.
    if (error.status === 503) log.warn({ ...ids, code: error.code }, `request refused: ${error.message}`)
    else if (error.status >= 500) log.error({ ...ids, err: error.cause ?? error }, 'request failed')
    return error
  }

  /** Refuses new requests, waits for those under way, stops what is left after `deadlineMs`. */
  async drain(deadlineMs: number): Promise<void> {
    this.draining = true
    if (this.underWay.size === 0) return
    this.idle ??= deferred()
    await withDeadline(this.idle.promise, deadlineMs, 'waiting for requests to end').catch(() => {})
    for (const exchange of this.underWay) exchange.stop('shutdown')
  }

  private end(exchange: Exchange, status: number): void {
    const ended = exchange.end(status)
    if (ended === undefined) return
    this.underWay.delete(exchange)
    this.metrics.requestEnded(ended)
    this.gateway.traces.requestEnded(exchange.traceId)
    this.gateway.log.info(
      { requestId: exchange.requestId, trace_id: exchange.traceId, status, ...ended },
      `${ended.operation} request ${ended.outcome}`,
    )
    if (this.underWay.size === 0) this.idle?.resolve()
  }
}

export function newRequestId(): string {
  return `req-${randomBytes(12).toString('hex')}`
}
