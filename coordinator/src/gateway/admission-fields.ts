/**
 * What a client may say of how its request stands to others: `priority`, `slo.ttft_ms` (or the header x-slo-ttft-ms,
 * which gateways in front use), and, where there are no API keys, `user`.
 */
import type { IncomingHttpHeaders } from 'node:http'
import { z } from 'zod'
import { PRIORITY_MAX, PRIORITY_MIN } from '../core/admission-setting.js'
import { badRequest } from './api-error.js'
import { withoutNulls } from './without-nulls.js'

/** A day: a client that has so much time sets no deadline. */
const DEADLINE_MAX_MS = 86_400_000
const DEADLINE_HEADER = 'x-slo-ttft-ms'
/** Of a name that a client chooses, which need only tell tenants apart. */
const TENANT_NAME_MAX = 128

export const priorityField = z.int().min(PRIORITY_MIN).max(PRIORITY_MAX)

export const sloField = z.preprocess(
  withoutNulls,
  z.strictObject({ ttft_ms: z.number().min(1).max(DEADLINE_MAX_MS).optional() }),
)

/** From the header, for a request whose body says nothing. Throws ApiError (400). */
export function ttftDeadlineOf(headers: IncomingHttpHeaders): number | undefined {
  const text = headers[DEADLINE_HEADER]
  if (text === undefined) return undefined
  const value = typeof text === 'string' && text.trim() !== '' ? Number(text) : Number.NaN
  if (value >= 1 && value <= DEADLINE_MAX_MS) return value
  throw badRequest(
    `Invalid value for the header "${DEADLINE_HEADER}": give milliseconds from 1 to ${DEADLINE_MAX_MS}.`,
    'invalid_value',
    DEADLINE_HEADER,
  )
}

/** The tenant that a client gives itself, where no key tells who it is. */
export function claimedTenant(user: string | undefined): string {
  return (user ?? '').slice(0, TENANT_NAME_MAX)
}
