/**
 * Reads and throws away the rest of a body that was refused unread, to a bound.
 *
 * Closing the connection while the client still sends makes the kernel reset it, and most
 * clients then report a broken connection instead of the answer that says why.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'

const DISCARDED_BYTES_MAX = 128 * 1024 * 1024

export function drainRefusedBody(request: FastifyRequest, reply: FastifyReply): void {
  const { raw } = request
  if (raw.complete || raw.destroyed) return
  // Fastify asks for the connection's end in this case.
  reply.removeHeader('connection')
  let bytes = 0
  raw.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes > DISCARDED_BYTES_MAX) raw.destroy()
  })
  raw.resume()
}
