/**
 * Traces in and out: `POST /v1/traces` takes OTLP/HTTP JSON from agents, `GET /v1/traces`
 * lists the last ones, `GET /v1/traces/{id}` shows one by trace or request id.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { parseOtlpJson } from '../trace-store/otlp-json.js'
import { SETTLE_MS_MAX } from '../trace-store/trace-store.js'
import { requestIdOf } from './answer.js'
import { ApiError } from './api-error.js'
import type { GatewayContext } from './gateway-context.js'
import { parseFields } from './request-fields.js'

/** A batch of an agent: up to 512 spans, of which those of long answers hold thousands of times. */
const SPANS_BYTES_MAX = 32 * 1024 * 1024

const listQuery = z.strictObject({ limit: z.coerce.number().int().min(1).max(1_000).default(50) })
const waitQuery = z.strictObject({ wait: z.coerce.number().int().min(0).max(SETTLE_MS_MAX).default(0) })

/** `intakePath` is the path under which agents post, which others cannot guess where keys are in use. */
export function registerTraceRoutes(app: FastifyInstance, gateway: GatewayContext, intakePath: string): void {
  const { traces, service } = gateway

  const receive = async (request: FastifyRequest) => {
    const { spans, rejected, firstError } = parseOtlpJson(request.body)
    traces.add(spans)
    return rejected === 0 ? {} : { partialSuccess: { rejectedSpans: rejected, errorMessage: firstError } }
  }
  app.register(async (intake) => {
    intake.addContentTypeParser(['application/x-protobuf', 'application/protobuf'], refuseProtobuf)
    const options = { bodyLimit: SPANS_BYTES_MAX }
    intake.post('/v1/traces', options, receive)
    if (intakePath !== '') intake.post(`${intakePath}/v1/traces`, options, receive)
  })

  app.get('/v1/traces', async (request) => {
    const { limit } = parseFields(listQuery, request.query)
    return { object: 'list', data: traces.recent(limit) }
  })

  app.get<{ Params: { id: string } }>('/v1/traces/:id', async (request, reply: FastifyReply) => {
    const { wait } = parseFields(waitQuery, request.query)
    const gone = new AbortController()
    reply.raw.once('close', () => gone.abort())
    const id = requestIdOf(request.params.id)
    const trace =
      (await traces.settled(id, wait, gone.signal)) ?? traces.find(service.request(id)?.traceId ?? id)
    if (trace !== undefined) return trace
    throw new ApiError({
      status: 404,
      message: `No trace "${request.params.id}" is held here: it was not sampled, is too old, or has not ended yet.`,
      code: 'trace_not_found',
    })
  })
}

async function refuseProtobuf(): Promise<never> {
  throw new ApiError({
    status: 415,
    message: 'Traces are accepted as OTLP/HTTP JSON only. Set OTEL_EXPORTER_OTLP_PROTOCOL=http/json.',
    code: 'unsupported_media_type',
  })
}
