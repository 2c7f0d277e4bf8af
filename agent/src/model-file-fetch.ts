/**
 * Fetches one file of a model into a folder, going on where an earlier try has ended.
 *
 * Invariant: `NAME.part` holds what was received so far, in order; `NAME` is there only once its digest is right.
 */
import { createHash, type Hash } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { fileDigest } from '@kvasir/engine/file-digest'
import type { ModelFile, ModelServiceClient } from '@kvasir/proto/kvasir/model/v1/model'
import { withDeadline } from '@kvasir/runtime/deferred'
import { CorruptDataError, OverloadedError, UnreachableError } from '@kvasir/runtime/errors'
import { callServerStream } from '@kvasir/runtime/rpc-client'
import { sizeText } from '@kvasir/runtime/size-text'

/** Longest silence of the sender. */
const SILENCE_MS = 20_000
const READ_BYTES = 1 << 20

export interface FileFetch {
  readonly client: ModelServiceClient
  /** Of the sender. */
  readonly deviceId: string
  readonly modelDigest: string
  readonly file: ModelFile
  readonly folder: string
  readonly signal: AbortSignal
}

/** What was there before does not go with what came: it was deleted, and another try begins anew. */
export class StaleStartError extends Error {}

/** Bytes of a file that are there, whole or in part. */
export async function bytesPresent(folder: string, { name, bytes }: ModelFile): Promise<number> {
  for (const path of [join(folder, name), partOf(folder, name)]) {
    const facts = await stat(path).catch(() => undefined)
    if (facts !== undefined && BigInt(facts.size) <= bytes) return facts.size
  }
  return 0
}

/** `received` hears of each part that comes. */
export async function fetchFile(fetch: FileFetch, received: (bytes: number) => void): Promise<void> {
  const { file, folder } = fetch
  const path = join(folder, file.name)
  await mkdir(folder, { recursive: true })
  if (await isWhole(path, file)) return
  const part = partOf(folder, file.name)
  const handle = await open(part, constants.O_RDWR | constants.O_CREAT)
  try {
    await receive(fetch, handle, received)
    await handle.sync()
  } catch (error) {
    // A full disk is not left full, and bytes that are wrong would be wrong again.
    const isUseless =
      isDiskFull(error) || error instanceof CorruptDataError || error instanceof StaleStartError
    if (isUseless) await rm(part, { force: true })
    throw error
  } finally {
    await handle.close()
  }
  await rename(part, path)
}

async function receive(
  fetch: FileFetch,
  handle: FileHandle,
  received: (bytes: number) => void,
): Promise<void> {
  const { client, deviceId, modelDigest, file } = fetch
  const { name, sha256 } = file
  const bytes = Number(file.bytes)
  const hash = createHash('sha256')
  const before = await hashPresent(handle, bytes, hash)
  const over = new AbortController()
  const signal = AbortSignal.any([fetch.signal, over.signal])
  let size = before
  try {
    const request = { modelDigest, sha256, offset: BigInt(before) }
    const parts = callServerStream(client, 'fetch', request, { signal })
    for (;;) {
      const next = await withDeadline(parts.next(), SILENCE_MS, `waiting for ${name} from ${deviceId}`)
      if (next.done === true) break
      const { data } = next.value
      if (size + data.length > bytes) throw damaged(fetch, 'it is longer than was said')
      await handle.write(data, 0, data.length, size)
      hash.update(data)
      size += data.length
      received(data.length)
    }
  } finally {
    over.abort()
  }
  if (size < bytes) {
    throw new UnreachableError(
      `Device ${deviceId} stopped sending ${name} after ${size} of ${bytes} bytes.`,
      {
        ids: { deviceId },
      },
    )
  }
  if (hash.digest('hex') === sha256) return
  if (before === 0) throw damaged(fetch, 'it does not match its SHA-256')
  throw new StaleStartError(
    `What was here of ${name} does not go with what ${deviceId} sent; it is fetched anew.`,
  )
}

/** Bytes that are there; none where there are more than the file has. Throws StaleStartError where they go meanwhile. */
async function hashPresent(handle: FileHandle, bytesMax: number, hash: Hash): Promise<number> {
  const { size } = await handle.stat()
  if (size > bytesMax) {
    await handle.truncate(0)
    return 0
  }
  const buffer = Buffer.allocUnsafe(READ_BYTES)
  for (let position = 0; position < size; ) {
    const { bytesRead } = await handle.read(buffer, 0, READ_BYTES, position)
    if (bytesRead === 0)
      throw new StaleStartError('A file that is being fetched was cut; it is fetched anew.')
    hash.update(buffer.subarray(0, bytesRead))
    position += bytesRead
  }
  return size
}

async function isWhole(path: string, { bytes, sha256 }: ModelFile): Promise<boolean> {
  const facts = await stat(path).catch(() => undefined)
  if (facts === undefined) return false
  if (BigInt(facts.size) === bytes && (await fileDigest(path)) === sha256) return true
  await rm(path)
  return false
}

function partOf(folder: string, name: string): string {
  return join(folder, `${name}.part`)
}

function damaged({ deviceId, file }: FileFetch, why: string): CorruptDataError {
  return new CorruptDataError(`The file ${file.name} from device ${deviceId} is damaged: ${why}.`, {
    ids: { deviceId },
  })
}

export function isDiskFull(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT')
}

/** `bytes`: needed, where known. */
export function diskFull(folder: string, cause: unknown, bytes?: number): OverloadedError {
  const need = bytes === undefined ? '' : `: ${sizeText(bytes)} more are needed`
  return new OverloadedError(
    `The disk of ${folder} has no room for the model${need}; free some, or set modelCacheDir to a folder on another one.`,
    { param: 'modelCacheDir', cause },
  )
}
