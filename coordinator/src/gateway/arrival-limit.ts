/**
 * A request must have arrived whole within a time. The server's own limit would hold for uploads too,
 * which take as long as they are large; so it is off, and the other routes are held to theirs here.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { answerUnreadable } from './unreadable-request.js'

const REQUEST_TIMEOUT_MS = 60_000

export function limitArrival(request: IncomingMessage, response: ServerResponse): void {
  const timer = setTimeout(() => {
    if (request.complete || response.headersSent) return
    const error = Object.assign(new Error('Request timeout'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' })
    answerUnreadable(error, request.socket)
  }, REQUEST_TIMEOUT_MS)
  const stop = () => clearTimeout(timer)
  request.once('end', stop)
  response.once('close', stop)
}
