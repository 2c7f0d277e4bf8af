/**
 * ModelService as gRPC sees it: an agent gives the files of the models that it serves to others.
 *
 * Invariant: at most STREAMS_MAX files are sent at a time, each as fast as its receiver takes it; more are refused.
 */
import { open } from 'node:fs/promises'
import { type ModelServiceServer, ModelServiceService } from '@kvasir/proto/kvasir/model/v1/model'
import { InvalidInputError, NotFoundError, OverloadedError } from '@kvasir/runtime/errors'
import { serverStream, unary } from '@kvasir/runtime/rpc-server'
import type { ModelLibrary } from './model-library.js'
import type { Pacer } from './pacer.js'
import type { ServiceBinding } from './services.js'

const STREAMS_MAX = 8
const CHUNK_BYTES = 1 << 20
const BUSY_RETRY_MS = 1_000

export function modelService(deviceId: string, library: ModelLibrary, pacer: Pacer): ServiceBinding {
  const ids = { deviceId }
  let streams = 0
  const filesOf = async (digest: string) => {
    const found = await library.describe(digest)
    if (found !== undefined) return found
    throw new NotFoundError(
      `Device ${deviceId} has no files of a model with digest ${digest.slice(0, 16)}; ask one that advertises it.`,
      { ids, param: 'digest' },
    )
  }
  const implementation: ModelServiceServer = {
    describe: unary(async ({ digest }) => {
      const { name, files } = await filesOf(digest)
      return {
        digest,
        name,
        files: files.map(({ name, bytes, sha256, text }) => ({ name, bytes: BigInt(bytes), sha256, text })),
      }
    }),
    fetch: serverStream(async ({ modelDigest, sha256, offset }, { signal }, send) => {
      if (streams >= STREAMS_MAX) {
        throw new OverloadedError(
          `Device ${deviceId} sends ${streams} files already; ask another one, or again later.`,
          { ids, retryAfterMs: BUSY_RETRY_MS },
        )
      }
      streams += 1
      try {
        const { files } = await filesOf(modelDigest)
        const file = files.find((known) => known.sha256 === sha256)
        if (file === undefined) {
          throw new NotFoundError(
            `Device ${deviceId} has no file with SHA-256 ${sha256.slice(0, 16)} of this model; describe it anew.`,
            { ids, param: 'sha256' },
          )
        }
        if (offset > BigInt(file.bytes)) {
          throw new InvalidInputError(
            `FetchRequest.offset is ${offset}, but the file has ${file.bytes} bytes.`,
            { ids, param: 'offset' },
          )
        }
        await sendFile(file.path, Number(offset), signal, async (data) => {
          await pacer.transmit(data.length, signal)
          await send({ data })
        })
      } finally {
        streams -= 1
      }
    }),
  }
  return { definition: ModelServiceService, implementation }
}

async function sendFile(
  path: string,
  offset: number,
  signal: AbortSignal,
  send: (data: Buffer) => Promise<void>,
): Promise<void> {
  const file = await open(path, 'r')
  try {
    for (let position = offset; ; ) {
      signal.throwIfAborted()
      // The transport may still hold the last one.
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(CHUNK_BYTES), 0, CHUNK_BYTES, position)
      if (bytesRead === 0) return
      await send(buffer.subarray(0, bytesRead))
      position += bytesRead
    }
  } finally {
    await file.close()
  }
}
