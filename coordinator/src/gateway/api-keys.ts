/**
 * Who may use the API, which tenant's KV blocks a request may share, and among whom devices are shared fairly.
 *
 * Keys are compared by their hash, so that the time taken tells nothing about them. A
 * tenant's salt follows from its key and does not reveal it.
 */
import { createHash, createHmac } from 'node:crypto'
import { ApiError } from './api-error.js'

const SALT_BYTES = 16
const NO_SALT = new Uint8Array(0)

export interface ApiKeys {
  /** The salt of the tenant whose key the header holds. Throws a 401 where a key is needed and none fits. */
  tenantSalt(authorization: string | undefined): Uint8Array
  /** Name of the tenant, `key-1` for the first key that is set, and so on; undefined where there are no keys. */
  tenant(authorization: string | undefined): string | undefined
}

export function createApiKeys(keys: readonly string[]): ApiKeys {
  const tenantByHash = new Map<string, { readonly name: string; readonly salt: Uint8Array }>()
  keys.forEach((key, index) => {
    const hash = hashOf(key)
    if (!tenantByHash.has(hash)) tenantByHash.set(hash, { name: `key-${index + 1}`, salt: saltOf(key) })
  })
  const tenantOf = (authorization: string | undefined) => {
    if (tenantByHash.size === 0) return undefined
    const key = /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1]
    const tenant = key === undefined ? undefined : tenantByHash.get(hashOf(key))
    if (tenant !== undefined) return tenant
    throw new ApiError({
      status: 401,
      message:
        key === undefined
          ? 'An API key is needed. Send it as "Authorization: Bearer KEY".'
          : 'This API key is not known here. Check it with whoever runs this server.',
      code: 'invalid_api_key',
    })
  }
  return {
    tenantSalt: (authorization) => tenantOf(authorization)?.salt ?? NO_SALT,
    tenant: (authorization) => tenantOf(authorization)?.name,
  }
}

function hashOf(key: string): string {
  return createHash('sha256').update(key).digest('base64')
}

function saltOf(key: string): Uint8Array {
  return new Uint8Array(
    createHmac('sha256', key).update('kvasir tenant salt').digest().subarray(0, SALT_BYTES),
  )
}
