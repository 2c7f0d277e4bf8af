/**
 * Keeps this coordinator's entry in the bucket of coordinators, from which agents learn
 * where traces go and tools where the API is.
 *
 * The entry outlives a lost connection by the bucket's TTL only, so it is put again every
 * few seconds and as soon as the bus is back.
 */
import { CoordinatorRecord } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { Bus } from '@kvasir/runtime/bus'
import { messageOf } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import { BUCKET_TTL_MS, COORDINATORS_BUCKET, READVERTISE_MS } from '@kvasir/runtime/subjects'

export interface AdvertisedRecord {
  /** Removes the entry. */
  close(): Promise<void>
}

/** Puts the entry before it returns, if the bus is up. */
export async function advertiseCoordinator(
  bus: Bus,
  record: CoordinatorRecord,
  log: Logger,
): Promise<AdvertisedRecord> {
  const bucket = bus.bucket(COORDINATORS_BUCKET, { ttlMs: BUCKET_TTL_MS })
  const json = CoordinatorRecord.toJSON(record)
  const put = async () => {
    if (!bus.connected || typeof json !== 'object' || json === null) return
    try {
      await bucket.put(record.coordinatorId, json)
    } catch (error) {
      log.warn(`This coordinator could not be advertised: ${messageOf(error)}`)
    }
  }
  const timer = setInterval(() => void put(), READVERTISE_MS)
  const offStatus = bus.onStatus((connected) => {
    if (connected) void put()
  })
  await put()
  return {
    async close() {
      clearInterval(timer)
      offStatus()
      if (bus.connected) await bucket.delete(record.coordinatorId).catch(() => {})
    },
  }
}
