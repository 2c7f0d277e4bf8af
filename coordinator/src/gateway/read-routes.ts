/**
 * What can be read of a running coordinator: models, cluster, requests, health, metrics.
 */
import type { FastifyInstance } from 'fastify'
import { requestIdOf } from './answer.js'
import { ApiError } from './api-error.js'
import type { ApiKeys } from './api-keys.js'
import type { Exchanges } from './exchanges.js'
import type { GatewayContext } from './gateway-context.js'
import type { GatewayMetrics } from './metrics.js'
import { modelCard, modelCards } from './model-cards.js'
import { noSuchModel } from './prepare.js'

interface ById {
  Params: { id: string }
}

export function registerReadRoutes(
  app: FastifyInstance,
  gateway: GatewayContext,
  exchanges: Exchanges,
  metrics: GatewayMetrics,
  keys: ApiKeys,
): void {
  const { service, textModels, clock } = gateway
  const createdSeconds = Math.floor(clock.wallMs() / 1000)

  app.get('/v1/models', async () => ({ object: 'list', data: modelCards(gateway, createdSeconds) }))

  // A model's name may hold slashes, such as org/model.
  app.get<{ Params: { '*': string } }>('/v1/models/*', async (request) => {
    const name = request.params['*']
    const card = modelCard(name, gateway, createdSeconds)
    if (card !== undefined) return card
    throw noSuchModel(name, textModels, service)
  })

  app.get('/v1/cluster', async () => service.cluster())

  app.get('/v1/completions/history', async () => service.completions())

  app.get<ById>('/v1/requests/:id', async (request) => {
    const tenantSalt = keys.tenantSalt(request.headers.authorization)
    const report = service.request(requestIdOf(request.params.id), tenantSalt)
    if (report !== undefined) return report
    throw new ApiError({
      status: 404,
      message: `No request "${request.params.id}" is known here: it never reached a device, or is long over.`,
      code: 'request_not_found',
    })
  })

  app.get('/health/live', async () => ({ status: 'live' }))

  app.get('/health/ready', async (_request, reply) => {
    const models = modelCards(gateway, createdSeconds)
      .filter(({ kvasir }) => kvasir.ready)
      .map(({ id }) => id)
    if (exchanges.draining) return reply.code(503).send({ status: 'draining', models })
    if (models.length === 0) return reply.code(503).send({ status: 'no model can be served', models })
    return { status: 'ready', models }
  })

  app.get('/metrics', async (_request, reply) => reply.type(metrics.contentType).send(await metrics.render()))
}
