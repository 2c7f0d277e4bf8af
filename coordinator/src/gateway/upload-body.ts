/**
 * The body of an upload as it arrives: nothing of it is held, its reader sets the pace.
 *
 * Its bounds are its own: the bytes of all of it, and the time between two parts of it.
 */
import type { IncomingMessage } from 'node:http'
import { withDeadline } from '@kvasir/runtime/deferred'
import { DeadlineError } from '@kvasir/runtime/errors'
import { ApiError } from './api-error.js'

/** Less than the receiving agent waits, so that the client hears whose fault it is. */
const SILENCE_MS = 20_000

/** Throws ApiError where it is larger than `bytesMax` (413) or stops coming (408); what the socket throws. */
export async function* uploadBody(raw: IncomingMessage, bytesMax: number): AsyncGenerator<Buffer> {
  if (Number(raw.headers['content-length'] ?? 0) > bytesMax) throw tooLarge(bytesMax)
  // A stream that is destroyed takes the connection with it, and the answer that says why.
  const chunks = raw.iterator({ destroyOnReturn: false })
  let bytes = 0
  for (;;) {
    const next = await withDeadline(
      chunks.next(),
      SILENCE_MS,
      'waiting for the next part of the upload',
    ).catch((thrown: unknown) => {
      throw thrown instanceof DeadlineError ? silent(thrown) : thrown
    })
    if (next.done === true) return
    const chunk: Buffer = next.value
    bytes += chunk.length
    if (bytes > bytesMax) throw tooLarge(bytesMax)
    yield chunk
  }
}

function tooLarge(bytesMax: number): ApiError {
  return new ApiError({
    status: 413,
    message: `The upload is larger than the ${bytesMax} bytes that this server takes at once; nothing of it was added. Send it in parts.`,
    code: 'request_too_large',
  })
}

function silent(cause: DeadlineError): ApiError {
  return new ApiError({
    status: 408,
    message: `Nothing of the upload came for ${SILENCE_MS / 1000} s; nothing of it was added. Send it again.`,
    code: 'request_timeout',
    cause,
  })
}
