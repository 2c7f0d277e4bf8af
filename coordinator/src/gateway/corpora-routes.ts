/**
 * `/v1/corpora`: make, list, fill, search and delete collections of documents, each of one tenant.
 *
 * Documents are streamed to the device that keeps them and never held here, so that their body has bounds
 * of its own (upload-body.ts). Searches and uploads have an exchange, and so a trace, like a completion.
 */
import { context } from '@opentelemetry/api'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { z } from 'zod'
import type { CorpusReport, SearchReport } from '../retrieval/corpus-reports.js'
import { roundMs } from '../round-ms.js'
import { ApiError, badRequest } from './api-error.js'
import type { ApiKeys } from './api-keys.js'
import type { Exchanges } from './exchanges.js'
import type { GatewayContext } from './gateway-context.js'
import { parseFields, textField } from './request-fields.js'
import { corpusError } from './retrieve.js'
import { uploadBody } from './upload-body.js'

const K_DEFAULT = 10
const K_MAX = 1_000
const SEARCH_ROUTE = '/v1/corpora/:name/search'
const UPLOAD_ROUTE = '/v1/corpora/:name/documents'
const JSONL_TYPES = ['application/x-ndjson', 'application/jsonl', 'text/plain']

const createFields = z.strictObject({ name: z.string() })
const searchFields = z.strictObject({ query: textField, k: z.int().min(1).max(K_MAX).optional() })

interface ByName {
  Params: { name: string }
}

export function registerCorporaRoutes(
  app: FastifyInstance,
  gateway: GatewayContext,
  exchanges: Exchanges,
  keys: ApiKeys,
): void {
  const { corpora, limits } = gateway

  app.post('/v1/corpora', async (request, reply) => {
    const { name } = parseFields(createFields, request.body)
    const report = await named(corpora.create(refOf(request, name)))
    return reply.code(201).send(view(report))
  })

  app.get('/v1/corpora', async (request) => {
    const reports = await corpora.list(keys.tenantSalt(request.headers.authorization))
    return { object: 'list', data: reports.map(view) }
  })

  app.get<ByName>('/v1/corpora/:name', async (request) => {
    return view(await named(corpora.get(refOf(request, request.params.name))))
  })

  app.delete<ByName>('/v1/corpora/:name', async (request) => {
    const { name } = request.params
    await named(corpora.delete(refOf(request, name)))
    return { object: 'corpus.deleted', name, deleted: true }
  })

  app.post<ByName>(SEARCH_ROUTE, {
    onRequest: async (request, reply) =>
      exchanges.open(request, reply, { operation: 'retrieval', route: SEARCH_ROUTE }),
    handler: (request) => {
      const exchange = exchanges.of(request)
      return context.with(exchange.context, async (): Promise<SearchReport> => {
        const { query, k = K_DEFAULT } = parseFields(searchFields, request.body)
        if (query.trim() === '') {
          throw badRequest('The query is empty. Give at least one word.', 'empty_query', 'query')
        }
        const { name } = request.params
        const startedMs = performance.now()
        const options = { k, signal: exchange.stopSignal() }
        const { documents, stages } = await named(corpora.search(refOf(request, name), query, options))
        exchange.succeeded()
        const tookMs = roundMs(performance.now() - startedMs)
        return { corpus: name, k, documents, tookMs, stages }
      })
    },
  })

  app.register(async (uploads) => {
    uploads.removeAllContentTypeParsers()
    uploads.addContentTypeParser(JSONL_TYPES, (_request, _payload, done) => done(null))
    uploads.addContentTypeParser('*', (_request, _payload, done) => done(wrongType()))
    uploads.post<ByName>(UPLOAD_ROUTE, {
      config: { isUpload: true },
      onRequest: async (request, reply) =>
        exchanges.open(request, reply, { operation: 'upload', route: UPLOAD_ROUTE }),
      handler: (request) => {
        const exchange = exchanges.of(request)
        return context.with(exchange.context, async () => {
          if (request.headers['content-type'] === undefined) throw wrongType()
          const ref = refOf(request, request.params.name)
          const body = uploadBody(request.raw, limits.uploadBytesMax)
          const report = await named(corpora.ingest(ref, body, exchange.stopSignal()))
          exchange.succeeded()
          return { ...report, corpus: view(report.corpus) }
        })
      },
    })
  })

  function refOf(request: FastifyRequest, name: string) {
    return { name, tenantSalt: Buffer.from(keys.tenantSalt(request.headers.authorization)) }
  }
}

async function named<T>(work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (thrown) {
    throw corpusError(thrown)
  }
}

function view(report: CorpusReport) {
  return { object: 'corpus', ...report }
}

function wrongType(): ApiError {
  return new ApiError({
    status: 415,
    message:
      'Documents are sent as JSONL, one a line. Send them with the header "Content-Type: application/x-ndjson".',
    code: 'unsupported_media_type',
  })
}
