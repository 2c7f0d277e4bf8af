/**
 * Fetches what turns text into tokens from a device that has a model, since weights are of no use here.
 *
 * F1 A file is used only with the size and SHA-256 that the device told; a folder is there whole or not at all.
 * F2 Nothing that a peer says leads outside the cache, and no file is larger than FILE_BYTES_MAX.
 * F3 What cannot be read does not stay: no digest covers these files, and the next ones may be better.
 * F4 A GGUF file holds its tokenizer in its head: that much is fetched of it, which no digest covers.
 */
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { TextFiles } from '@kvasir/engine/text/text-model'
import type { ModelFile, ModelServiceClient } from '@kvasir/proto/kvasir/model/v1/model'
import { CorruptDataError, UnreachableError, UnsupportedError } from '@kvasir/runtime/errors'
import { callServerStream, callUnary } from '@kvasir/runtime/rpc-client'
import { cacheFolder } from '@kvasir/runtime/state-folder'

const FILES_MAX = 16
const FILE_BYTES_MAX = 256 << 20
/** The vocabularies in use, with merges, take up to some 10 MB. */
const GGUF_HEAD_BYTES = 32 << 20
/** A device may hash its files before it can tell of them. */
const DESCRIBE_TIMEOUT_MS = 30_000
const FETCH_TIMEOUT_MS = 120_000
const DIGEST = /^[0-9a-f]{64}$/
const FILE_NAME = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/

/**
 * Gives the files from the cache where they are there. Throws UnsupportedError for a model without a
 * tokenizer, CorruptDataError for what is not as it was told, and what calls throw.
 */
export async function fetchTextFiles(
  client: ModelServiceClient,
  { name, digest }: { readonly name: string; readonly digest: string },
  signal: AbortSignal,
): Promise<TextFiles> {
  if (!DIGEST.test(digest)) throw new CorruptDataError(`The digest of the model ${name} is none: ${digest}.`)
  const folder = join(cacheFolder(), 'tokenizers', digest)
  if (await isThere(folder)) return { folder, name, digest }
  const manifest = await callUnary(client, 'describe', { digest }, { timeoutMs: DESCRIBE_TIMEOUT_MS, signal })
  const temporary = `${folder}.${randomBytes(4).toString('hex')}`
  await mkdir(temporary, { recursive: true })
  try {
    for (const file of wantedFiles(manifest.files, name)) {
      await fetchFile(client, digest, file, temporary, signal)
    }
    await publish(temporary, folder)
  } finally {
    await rm(temporary, { recursive: true, force: true })
  }
  return { folder, name, digest }
}

/** From the first of a model's devices that gives them. Throws what the last one failed with. */
export async function fetchFromAny(
  devices: readonly (() => ModelServiceClient)[],
  model: { readonly name: string; readonly digest: string },
  signal: AbortSignal,
): Promise<TextFiles> {
  let failure: unknown = new UnreachableError(`No device has the model ${model.name} any more.`)
  for (const client of devices) {
    try {
      return await fetchTextFiles(client(), model, signal)
    } catch (thrown) {
      failure = thrown
    }
  }
  throw failure
}

/** Has them fetched anew by whoever wants them next. */
export async function dropTextFiles({ folder }: TextFiles): Promise<void> {
  await rm(folder, { recursive: true, force: true })
}

function wantedFiles(files: readonly ModelFile[], name: string): readonly ModelFile[] {
  const text = files.filter((file) => file.text)
  const wanted = text.length > 0 ? text : files.filter((file) => isGguf(file))
  if (wanted.length === 0) {
    throw new UnsupportedError(`The model ${name} has no tokenizer: it cannot be asked with text.`)
  }
  if (!wanted.some((file) => isGguf(file) || file.name === 'tokenizer.json')) {
    throw new UnsupportedError(
      `The model ${name} has no tokenizer.json on its devices; put it beside the weights there, and load the model again.`,
    )
  }
  for (const file of wanted) {
    const isHead = isGguf(file)
    if (!FILE_NAME.test(file.name) || !(isHead || Number(file.bytes) <= FILE_BYTES_MAX)) {
      throw new CorruptDataError(
        `A file of the model ${name} has a name or size that cannot be: ${file.name}.`,
      )
    }
  }
  if (wanted.length > FILES_MAX) throw new CorruptDataError(`The model ${name} has too many text files.`)
  return wanted
}

async function fetchFile(
  client: ModelServiceClient,
  modelDigest: string,
  file: ModelFile,
  folder: string,
  signal: AbortSignal,
): Promise<void> {
  const bytesWanted = isGguf(file) ? Math.min(Number(file.bytes), GGUF_HEAD_BYTES) : Number(file.bytes)
  const stream = callServerStream(
    client,
    'fetch',
    { modelDigest, sha256: file.sha256, offset: 0n },
    { timeoutMs: FETCH_TIMEOUT_MS, signal },
  )
  const hash = createHash('sha256')
  const target = await open(join(folder, file.name), 'wx')
  let bytes = 0
  try {
    for await (const { data } of stream) {
      const part = data.subarray(0, bytesWanted - bytes)
      hash.update(part)
      await target.writeFile(part)
      bytes += data.length
      if (bytes >= bytesWanted && bytesWanted < Number(file.bytes)) break
      if (bytes > bytesWanted) throw notAsTold(file)
    }
    // A file with a hole, as long as the whole: its head says where tensors end, which is checked.
    if (bytesWanted < Number(file.bytes)) await target.truncate(Number(file.bytes))
  } finally {
    await target.close()
  }
  if (bytes < bytesWanted) throw notAsTold(file)
  if (bytesWanted === Number(file.bytes) && hash.digest('hex') !== file.sha256) throw notAsTold(file)
}

function notAsTold({ name }: ModelFile): CorruptDataError {
  return new CorruptDataError(`${name} did not arrive as it was told: another try may do better.`)
}

function isGguf({ name }: ModelFile): boolean {
  return name.toLowerCase().endsWith('.gguf')
}

/** Another process of this machine may have been as fast. */
async function publish(temporary: string, folder: string): Promise<void> {
  try {
    await rename(temporary, folder)
  } catch (error) {
    if (!(await isThere(folder))) throw error
  }
}

async function isThere(folder: string): Promise<boolean> {
  return (await stat(folder).catch(() => undefined))?.isDirectory() ?? false
}
