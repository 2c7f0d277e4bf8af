/**
 * Asks agents over NATS to load models and to unload them.
 *
 * Every device is asked at once and answers for itself, as soon as it begins; one that does not is said with
 * its reason.
 */
import { ControlRequest, ControlResponse } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { Bus } from '@kvasir/runtime/bus'
import { messageOf } from '@kvasir/runtime/errors'
import { PROTOCOL_VERSION } from '@kvasir/runtime/protocol'
import { controlSubject } from '@kvasir/runtime/subjects'
import type { LoadAnswer, LoadOrder, UnloadAnswer, UnloadOrder } from '../model-reports.js'
import { profileMessage } from './device-facts.js'

/** A device looks into the model's files, and asks its peers where it has none, before it answers. */
const ANSWER_TIMEOUT_MS = 20_000

export function loadOnDevices(
  bus: Bus,
  deviceIds: readonly string[],
  { model, digest, profile, kvBytes }: LoadOrder,
): Promise<LoadAnswer[]> {
  const command: ControlRequest['command'] = {
    $case: 'loadModel',
    value: { model, digest, profile: profileMessage(profile), kvBytes: BigInt(kvBytes) },
  }
  return Promise.all(
    deviceIds.map(async (deviceId) => ({ deviceId, error: await ask(bus, deviceId, command) })),
  )
}

export function unloadOnDevices(
  bus: Bus,
  orders: readonly UnloadOrder[],
  deadlineMs: number,
): Promise<UnloadAnswer[]> {
  return Promise.all(
    orders.map(async ({ deviceId, digest, profile }) => {
      const value = { digest, profile: profileMessage(profile), deadlineMs }
      return { deviceId, profile, error: await ask(bus, deviceId, { $case: 'unloadModel', value }) }
    }),
  )
}

/** Why the device will not; null where it does. */
async function ask(bus: Bus, deviceId: string, command: ControlRequest['command']): Promise<string | null> {
  const request: ControlRequest = { protocolVersion: PROTOCOL_VERSION, command }
  try {
    const json = ControlRequest.toJSON(request) as object
    const answer = await bus.request(controlSubject(deviceId), json, ANSWER_TIMEOUT_MS)
    return ControlResponse.fromJSON(answer).error || null
  } catch (thrown) {
    return messageOf(thrown)
  }
}
