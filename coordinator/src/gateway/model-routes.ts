/**
 * `POST /v1/models/load` and `POST /v1/models/unload`: asks devices, and answers with what each of them said.
 * What is accepted goes on by itself; `GET /v1/models` tells how far it is.
 */
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import type { DeviceReport } from '../generation.js'
import { servedName } from '../model-reports.js'
import { ApiError } from './api-error.js'
import type { GatewayContext } from './gateway-context.js'
import { noSuchModel } from './prepare.js'
import { parseFields, profileField } from './request-fields.js'

const DEVICES_MAX = 1_000
/** Long enough for most answers to end. */
const DRAIN_MS = 30_000
const DRAIN_MS_MAX = 86_400_000

const deviceList = z.array(z.string().min(1)).min(1).max(DEVICES_MAX)

const digestField = z.string().regex(/^[0-9a-f]{64}$/, 'expected a SHA-256, 64 hexadecimal digits')

const loadSchema = z.strictObject({
  model: z.string().min(1).max(4_096),
  /** That it must have. */
  digest: digestField.optional(),
  profile: profileField.optional(),
  /** Without it: every one that runs models. */
  devices: deviceList.optional(),
  /** For its KV on each device. */
  kv_bytes: z.int().min(1).optional(),
})

const unloadSchema = z.strictObject({
  model: z.string().min(1).max(4_096),
  /** Of several under the name; without it: the one that requests get. */
  digest: digestField.optional(),
  /** Without it: all. */
  profile: profileField.optional(),
  /** Without it: every one that has it. */
  devices: deviceList.optional(),
  /** What still runs after this time is placed elsewhere. */
  drain_ms: z.int().min(0).max(DRAIN_MS_MAX).optional(),
})

export function registerModelRoutes(app: FastifyInstance, gateway: GatewayContext): void {
  const { service, textModels } = gateway

  app.post('/v1/models/load', async (request, reply) => {
    const fields = parseFields(loadSchema, request.body)
    const { model, profile = gateway.profileDefault, kv_bytes: kvBytes = 0 } = fields
    // A name stands for one digest: what else is called so could not be asked for.
    const digest = fields.digest ?? textModels.digestOf(servedName(model)) ?? ''
    const runners = service.cluster().devices.filter(runsModels)
    const deviceIds = fields.devices ?? runners.map(({ deviceId }) => deviceId)
    for (const id of deviceIds) {
      if (!runners.some(({ deviceId }) => deviceId === id)) throw noSuchDevice(id, 'runs models')
    }
    if (deviceIds.length === 0) {
      throw new ApiError({
        status: 503,
        message: 'No device that runs models can be reached. Start an agent, then load the model.',
        code: 'unavailable',
      })
    }
    const answers = await service.loadModel([...new Set(deviceIds)], { model, digest, profile, kvBytes })
    return reply.code(202).send({
      model: servedName(model),
      profile,
      devices: answers.map(({ deviceId, error }) => ({ device_id: deviceId, error })),
    })
  })

  app.post('/v1/models/unload', async (request, reply) => {
    const fields = parseFields(unloadSchema, request.body)
    const { model, profile, devices, drain_ms: drainMs = DRAIN_MS } = fields
    const name = servedName(model)
    const digest = fields.digest ?? textModels.digestOf(name)
    const report = service
      .models()
      .find((known) => known.name === name && (digest === undefined || known.digest === digest))
    const held = (report?.devices ?? []).filter(
      (device) => device.state !== 'failed' && (profile === undefined || device.profile === profile),
    )
    if (!report || report.digest === '' || held.length === 0) {
      throw report || digest !== undefined ? notLoaded(name) : noSuchModel(name, textModels, service)
    }
    for (const id of devices ?? []) {
      if (!held.some(({ deviceId }) => deviceId === id)) throw noSuchDevice(id, `has the model "${name}"`)
    }
    const orders = held.filter(({ deviceId }) => devices?.includes(deviceId) ?? true)
    const answers = await service.unloadModel(
      orders.map((device) => ({
        deviceId: device.deviceId,
        digest: report.digest,
        profile: device.profile,
      })),
      drainMs,
    )
    return reply.code(202).send({
      model: name,
      devices: answers.map((answer) => ({
        device_id: answer.deviceId,
        profile: answer.profile,
        error: answer.error,
      })),
    })
  })
}

function runsModels({ state, capabilities, modelBytes }: DeviceReport): boolean {
  const computes = capabilities.includes('prefill') || capabilities.includes('decode')
  return state !== 'lost' && (computes || modelBytes !== null)
}

function notLoaded(name: string): ApiError {
  return new ApiError({
    status: 404,
    message: `No device has the model "${name}" so. GET /v1/models says where models are.`,
    code: 'model_not_found',
    param: 'model',
  })
}

function noSuchDevice(id: string, what: string): ApiError {
  return new ApiError({
    status: 404,
    message: `There is no device "${id}" here that ${what} and can be reached. GET /v1/cluster lists the devices.`,
    code: 'device_not_found',
    param: 'devices',
  })
}
