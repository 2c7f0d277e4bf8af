/**
 * Reads a request body as JSON, from its raw bytes: decoding first would turn invalid
 * UTF-8 into replacement characters and serve a prompt that nobody sent.
 */
import { isUtf8 } from 'node:buffer'
import { ApiError, badRequest } from './api-error.js'

export function parseJsonBody(bytes: Buffer): unknown {
  if (!isUtf8(bytes)) throw badRequest('The request body is not valid UTF-8.', 'invalid_utf8')
  if (bytes.length === 0) {
    throw badRequest('The request body is empty. Send a JSON object.', 'invalid_json')
  }
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch (error) {
    const detail = error instanceof Error ? error.message.replace(/, ".*" is not valid JSON$/s, '') : ''
    throw new ApiError({
      status: 400,
      message: `The request body is not valid JSON: ${detail}.`,
      code: 'invalid_json',
      cause: error,
    })
  }
}
