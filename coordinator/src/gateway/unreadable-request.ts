/**
 * Answers what is not HTTP, or too large a head of it: no request comes of it, so that the server's own
 * routes and hooks never see it. Answered in the shape of every other error, and the connection ends.
 */
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import { ApiError } from './api-error.js'
import { newRequestId } from './exchanges.js'

export function answerUnreadable(error: Error & { readonly code?: string }, socket: Socket): void {
  if (error.code !== 'ECONNRESET' && socket.writable) socket.write(responseTo(apiErrorOf(error.code)))
  socket.destroy(error)
}

function apiErrorOf(code: string | undefined): ApiError {
  switch (code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new ApiError({
        status: 408,
        message: 'The request did not arrive whole in time. Send it again.',
        code: 'request_timeout',
      })
    case 'HPE_HEADER_OVERFLOW':
      return new ApiError({
        status: 431,
        message: 'The headers are larger than this server accepts. Send fewer or shorter ones.',
        code: 'headers_too_large',
      })
    default:
      return new ApiError({
        status: 400,
        message: 'This is not a request in HTTP/1.1. Check the client, and that it does not use TLS.',
        code: 'invalid_http',
      })
  }
}

function responseTo(error: ApiError): string {
  const body = JSON.stringify(error.body)
  const requestId = newRequestId()
  const head = [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status] ?? ''}`,
    `x-kvasir-request-id: ${requestId}`,
    `x-request-id: ${requestId}`,
    'content-type: application/json; charset=utf-8',
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
  ]
  return `${head.join('\r\n')}\r\n\r\n${body}`
}
