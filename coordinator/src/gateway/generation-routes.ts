/**
 * `POST /v1/chat/completions` and `POST /v1/completions`.
 *
 * Until the first token is there a request can still fail with a status of its own, so a
 * stream's headers wait for it; after that an error is an event of the stream. Work stops
 * as soon as the answer is complete (stop string), the client is gone or too slow.
 */

import type { TextModel } from '@kvasir/engine/text/text-model'
import { InternalError, UnavailableError } from '@kvasir/runtime/errors'
import { recordError, startSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import { context } from '@opentelemetry/api'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Generation } from '../generation.js'
import { claimedTenant, ttftDeadlineOf } from './admission-fields.js'
import {
  type AnswerEnd,
  type AnswerExtension,
  type AnswerFormat,
  type AnswerIdentity,
  type AnswerOptions,
  attentionExtension,
  errorEvent,
  type FinishReason,
  modelledExtension,
  type TokenTexts,
} from './answer.js'
import { ApiError } from './api-error.js'
import type { ApiKeys } from './api-keys.js'
import { checkAttention } from './attention-field.js'
import { chatFormat } from './chat-format.js'
import { parseChatRequest } from './chat-request.js'
import { completionFormat } from './completion-format.js'
import { parseCompletionRequest } from './completion-request.js'
import type { Exchange, Operation } from './exchange.js'
import type { Exchanges } from './exchanges.js'
import type { GatewayContext } from './gateway-context.js'
import type { GenerationPlan } from './generation-plan.js'
import { modelOf, type PreparedPrompt, preparePrompt, profileOf, samplingOf } from './prepare.js'
import { pullTimingOf } from './pull-timing.js'
import { type Retrieved, retrieve } from './retrieve.js'
import { SseStream } from './sse-stream.js'
import { type Piece, TextAssembler } from './text-assembler.js'

interface Endpoint {
  readonly route: string
  readonly operation: Operation
  readonly parse: (body: unknown) => GenerationPlan
  readonly format: (identity: AnswerIdentity, options: AnswerOptions, texts: TokenTexts) => AnswerFormat
}

const ENDPOINTS: readonly Endpoint[] = [
  { route: '/v1/chat/completions', operation: 'chat', parse: parseChatRequest, format: chatFormat },
  {
    route: '/v1/completions',
    operation: 'text_completion',
    parse: parseCompletionRequest,
    format: completionFormat,
  },
]

/** An answer on its way. */
interface Answer {
  readonly exchange: Exchange
  readonly generation: Generation
  readonly assembler: TextAssembler
  readonly format: AnswerFormat
  readonly promptTokens: number
  readonly retrieval: AnswerExtension['retrieval']
}

export function registerGenerationRoutes(
  app: FastifyInstance,
  gateway: GatewayContext,
  exchanges: Exchanges,
  keys: ApiKeys,
): void {
  for (const endpoint of ENDPOINTS) {
    app.post(endpoint.route, {
      // Before the body is read, so that the span covers it.
      onRequest: async (request, reply) => exchanges.open(request, reply, endpoint),
      handler: (request, reply) => {
        const exchange = exchanges.of(request)
        return context.with(exchange.context, () => handle(endpoint, exchange, request, reply))
      },
    })
  }

  async function handle(
    endpoint: Endpoint,
    exchange: Exchange,
    request: FastifyRequest,
    reply: FastifyReply,
  ) {
    const plan = endpoint.parse(request.body)
    const model = await modelOf(plan, gateway.textModels, gateway.service)
    const traits = gateway.service.modelTraits(model.digest)
    const profile = profileOf(plan, model, traits, gateway.profileDefault)
    checkAttention(plan.attention, model, traits)
    const pullTiming = pullTimingOf(request.headers)
    const ttftDeadlineMs = plan.ttftDeadlineMs ?? ttftDeadlineOf(request.headers)
    exchange.planned(plan)
    const tenantSalt = keys.tenantSalt(request.headers.authorization)
    const retrieved = await retrieveFor(exchange, plan, model, tenantSalt)
    const prompt = await prepare(retrieved?.plan ?? plan, model, tenantSalt)
    exchange.prepared(prompt.promptTokens.length)
    throwIfStopped(exchange)
    const generation = gateway.service.submit({
      requestId: exchange.requestId,
      model: model.name,
      modelDigest: model.digest,
      profile,
      promptTokens: prompt.promptTokens,
      maxTokens: prompt.maxTokens,
      sampling: samplingOf(plan, model),
      tenantSalt,
      blockHashes: prompt.blockHashes,
      reusePrefix: plan.cachePrompt,
      attention: plan.attention,
      tenant: keys.tenant(request.headers.authorization) ?? claimedTenant(plan.user),
      priority: plan.priority,
      ttftDeadlineMs,
      retrieval: retrieved?.report ?? null,
      mergeLayers: plan.mergeLayers,
      ...pullTiming,
    })
    exchange.onStop((cause) => generation.cancel(cause === 'slow-client' ? cause : 'client-gone'))
    const answer = {
      exchange,
      generation,
      assembler: new TextAssembler(model.decoder(), plan.stops, plan.logprobs || plan.returnTokenIds),
      format: endpoint.format(identityOf(exchange, model), plan, model),
      promptTokens: prompt.promptTokens.length,
      retrieval: retrieved?.extension,
    }
    return plan.stream ? stream(answer, reply) : respond(answer)
  }

  async function retrieveFor(
    exchange: Exchange,
    plan: GenerationPlan,
    model: TextModel,
    tenantSalt: Uint8Array,
  ): Promise<Retrieved | undefined> {
    if (plan.retrieval === undefined) return undefined
    const { corpora, encoder, service } = gateway
    const { coordinatorId } = service.cluster()
    try {
      const signal = exchange.stopSignal()
      return await retrieve(plan, plan.retrieval, {
        corpora,
        encoder,
        model,
        tenantSalt,
        coordinatorId,
        signal,
      })
    } catch (thrown) {
      throwIfStopped(exchange)
      throw thrown
    }
  }

  async function prepare(
    plan: GenerationPlan,
    model: TextModel,
    tenantSalt: Uint8Array,
  ): Promise<PreparedPrompt> {
    const span = startSpan(SPAN.prepare, {})
    try {
      const prompt = await preparePrompt(plan, model, gateway.encoder, tenantSalt)
      span.setAttribute(ATTRIBUTE.tokens, prompt.promptTokens.length)
      return prompt
    } catch (thrown) {
      // A client's own mistake is no error of ours, and no reason to keep the trace.
      if (ApiError.from(thrown).status >= 500) recordError(span, thrown)
      throw thrown
    } finally {
      span.end()
    }
  }

  /** The whole answer as one JSON body. */
  async function respond(answer: Answer): Promise<object> {
    let text = ''
    const tokens: Piece['tokens'][number][] = []
    const reason = await follow(answer, (piece) => {
      text += piece.text
      tokens.push(...piece.tokens)
    })
    return answer.format.whole({ text, tokens }, complete(answer, reason))
  }

  /** The answer as server-sent events. */
  async function stream(answer: Answer, reply: FastifyReply): Promise<FastifyReply> {
    const { exchange, format } = answer
    let sse: SseStream | undefined
    const open = () => {
      reply.hijack()
      for (const [name, value] of Object.entries(reply.getHeaders())) {
        if (value !== undefined) reply.raw.setHeader(name, value)
      }
      reply.raw.writeHead(200, {
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-cache',
        // Asks reverse proxies not to collect the stream.
        'x-accel-buffering': 'no',
      })
      sse = new SseStream(reply.raw, {
        bufferBytesMax: gateway.limits.streamBufferBytesMax,
        drainMs: gateway.limits.streamDrainMs,
        onOverflow: () => exchange.stop('slow-client'),
      })
      sse.write(format.opening)
      return sse
    }
    try {
      const reason = await follow(answer, (piece) => (sse ?? open()).write(format.piece(piece)))
      ;(sse ?? open()).end(format.closing(complete(answer, reason)))
    } catch (thrown) {
      if (sse === undefined) throw thrown
      const error = exchanges.failed(exchange, thrown)
      sse.end(errorEvent(error.body))
    }
    return reply
  }

  /** Hands the answer's pieces on as they come; returns why it ended. Throws when it did not end well. */
  async function follow(answer: Answer, onPiece: (piece: Piece) => void): Promise<FinishReason> {
    const { exchange, generation, assembler } = answer
    let reason: FinishReason | undefined
    for await (const event of generation.events) {
      if (exchange.stopped !== undefined) break
      if (event.type === 'finished') {
        reason = event.reason
        break
      }
      const piece = assembler.push(event.tokens)
      exchange.tokensArrived(assembler.completionTokens)
      if (piece.text !== '' || piece.tokens.length > 0) onPiece(piece)
      if (assembler.isStopped) {
        reason = 'stop'
        generation.cancel('stop-string')
        break
      }
    }
    throwIfStopped(exchange)
    if (reason === undefined) throw new InternalError('The generation ended without saying why.')
    const rest = assembler.finish()
    if (rest.text !== '' || rest.tokens.length > 0) onPiece(rest)
    return assembler.isStopped ? 'stop' : reason
  }

  /** What the last chunk says, from the serving side's own report. */
  function complete(answer: Answer, reason: FinishReason): AnswerEnd {
    const { exchange, assembler, format, promptTokens, retrieval } = answer
    const report = gateway.service.request(exchange.requestId)
    const completionTokens = assembler.completionTokens
    const end: AnswerEnd = {
      reason,
      usage: {
        prompt_tokens: promptTokens,
        completion_tokens: completionTokens,
        total_tokens: promptTokens + completionTokens,
        prompt_tokens_details: { cached_tokens: report?.cachedTokens ?? 0 },
      },
      extension: {
        request_id: exchange.requestId,
        trace_id: exchange.traceId,
        ...(report?.placements.at(-1) ? { profile: report.placements.at(-1)?.profile } : {}),
        numerics_changed: report?.numericsChanged ?? false,
        ...(report && report.modelled.length > 0 ? { modelled: modelledExtension(report.modelled) } : {}),
        ...(report?.attention ? { attention: attentionExtension(report.attention) } : {}),
        ...(retrieval ? { retrieval } : {}),
      },
    }
    exchange.completed(format.id, end, report)
    return end
  }

  function identityOf(exchange: Exchange, model: TextModel): AnswerIdentity {
    return {
      requestId: exchange.requestId,
      model: model.name,
      createdSeconds: Math.floor(gateway.clock.wallMs() / 1000),
    }
  }
}

function throwIfStopped(exchange: Exchange): void {
  switch (exchange.stopped) {
    case undefined:
      return
    case 'shutdown':
      throw new UnavailableError('This server is shutting down. Try again; another one may answer.')
    default:
      // Nobody is left to read it.
      throw new ApiError({ status: 499, message: 'The client is gone.', code: 'client_gone' })
  }
}
