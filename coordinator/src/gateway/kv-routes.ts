/**
 * `GET /v1/kv`: where KV blocks are, tier by tier. `POST /v1/kv/evict`: devices give up those that
 * nobody leases.
 */
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import type { GenerationService } from '../generation.js'
import { ApiError } from './api-error.js'
import { parseFields } from './request-fields.js'

const HOST_TIER = 'host-dram'

const evictSchema = z.strictObject({
  /** Device id. Without it: all that hold blocks, and, where blocks are not dropped, all that can hand theirs over. */
  device: z.string().min(1).optional(),
  /** Drops the blocks; else they go to the host tier first, where there is one. */
  drop: z.boolean().optional(),
})

export function registerKvRoutes(app: FastifyInstance, service: GenerationService): void {
  app.get('/v1/kv', async () => service.kv())

  app.post('/v1/kv/evict', async (request) => {
    const { device, drop = false } = parseFields(evictSchema, request.body ?? {})
    const holders = service.kv().devices.filter(({ state, tiers }) => state !== 'lost' && tiers.length > 0)
    if (device !== undefined && !holders.some(({ deviceId }) => deviceId === device)) {
      throw new ApiError({
        status: 404,
        message: `There is no device "${device}" that holds KV blocks here. GET /v1/kv lists those that do.`,
        code: 'device_not_found',
        param: 'device',
      })
    }
    const asked = holders.filter(
      ({ deviceId, tiers }) =>
        // Behind host memory there is no other: its blocks would be dropped while others arrive.
        device === deviceId ||
        (device === undefined && (drop || tiers.some(({ kind }) => kind !== HOST_TIER))),
    )
    return {
      devices: await service.evict(
        asked.map(({ deviceId }) => deviceId),
        drop,
      ),
    }
  })
}
