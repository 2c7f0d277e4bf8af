/**
 * Asks agents over NATS to give up the KV blocks that nobody leases: for an operator who needs the
 * memory, and for measurements that want a cold device.
 *
 * Every device is asked at once and answers for itself; one that does not is said with its reason.
 */
import { ControlRequest, ControlResponse } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { Bus } from '@kvasir/runtime/bus'
import { messageOf } from '@kvasir/runtime/errors'
import { PROTOCOL_VERSION } from '@kvasir/runtime/protocol'
import { controlSubject } from '@kvasir/runtime/subjects'
import type { KvEviction } from '../generation.js'

/** Demotion hands every block to the host tier first. */
const EVICT_TIMEOUT_MS = 15_000

export function evictBlocks(bus: Bus, deviceIds: readonly string[], drop: boolean): Promise<KvEviction[]> {
  return Promise.all(deviceIds.map((deviceId) => evictOn(bus, deviceId, drop)))
}

async function evictOn(bus: Bus, deviceId: string, drop: boolean): Promise<KvEviction> {
  const request: ControlRequest = {
    protocolVersion: PROTOCOL_VERSION,
    command: { $case: 'evict', value: { drop } },
  }
  try {
    const answer = ControlResponse.fromJSON(
      await bus.request(controlSubject(deviceId), ControlRequest.toJSON(request) as object, EVICT_TIMEOUT_MS),
    )
    if (answer.error !== '') return { deviceId, blocks: 0, error: answer.error }
    return { deviceId, blocks: Number(answer.evictedBlocks ?? 0n), error: null }
  } catch (thrown) {
    return { deviceId, blocks: 0, error: messageOf(thrown) }
  }
}
