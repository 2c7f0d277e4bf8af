/**
 * Every name that Kvasir uses on NATS, in one place.
 */
import { InvalidInputError } from './errors.js'

/** KV bucket of device advertisements, key = device id. */
export const DEVICES_BUCKET = 'kvasir_devices'
/** KV bucket of coordinators and where they receive traces, key = coordinator id. */
export const COORDINATORS_BUCKET = 'kvasir_coordinators'
/** Entries of both buckets live this long after their last put. */
export const BUCKET_TTL_MS = 10_000
/** How often an entry is put again, three times within its life. */
export const READVERTISE_MS = 3_000

/** Load reports of one device; `*` for all. */
export function loadSubject(deviceId: string): string {
  return `kvasir.load.${token(deviceId)}`
}

/** KV stored and removed events of one device; `*` for all. */
export function kvSubject(deviceId: string): string {
  return `kvasir.kv.${token(deviceId)}`
}

/** Control requests to one device. */
export function controlSubject(deviceId: string): string {
  return `kvasir.control.${token(deviceId)}`
}

/** The device id at the end of a subject that was made here. */
export function deviceOfSubject(subject: string): string {
  return subject.slice(subject.lastIndexOf('.') + 1)
}

/** Throws InvalidInputError where an id cannot be a part of a subject and a bucket key. */
export function checkDeviceId(id: string): void {
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(id)) {
    throw new InvalidInputError(
      `The id ${JSON.stringify(id)} is not usable: use 1 to 64 letters, digits, "-" or "_".`,
      { param: 'deviceId' },
    )
  }
}

function token(id: string): string {
  if (id !== '*') checkDeviceId(id)
  return id
}
