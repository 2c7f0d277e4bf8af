/**
 * Who may use the API, and which tenant's KV blocks a request may share.
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
}

export function createApiKeys(keys: readonly string[]): ApiKeys {
  const saltByHash = new Map(keys.map((key) => [hashOf(key), saltOf(key)]))
  return {
    tenantSalt(authorization) {
      if (saltByHash.size === 0) return NO_SALT
      const key = /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1]
      const salt = key === undefined ? undefined : saltByHash.get(hashOf(key))
      if (salt !== undefined) return salt
      throw new ApiError({
        status: 401,
        message:
          key === undefined
            ? 'An API key is needed. Send it as "Authorization: Bearer KEY".'
            : 'This API key is not known here. Check it with whoever runs this server.',
        code: 'invalid_api_key',
      })
    },
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
