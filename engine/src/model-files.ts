/**
 * Finds a model by the name a user gives, and reads everything about it but its weights.
 *
 * R1 `dummy:NAME` is a generated model; anything else is a folder in Hugging Face layout: a path, or
 *    the name of a folder in the project's models/.
 * R2 The digest covers config.json and the weights: what decides the numbers in KV blocks.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { InvalidInputError, messageOf, NotFoundError } from '@kvasir/runtime/errors'
import { cacheFolder, projectRoot } from '@kvasir/runtime/state-folder'
import { DUMMY_PREFIX, dummyConfig, dummyWeights } from './dummy-model.js'
import { type ModelConfig, parseModelConfig, tokenIdList } from './model-config.js'
import { openSafetensors, weightFiles } from './safetensors.js'
import type { WeightSource } from './weight-source.js'

export interface ResolvedModel {
  /** Short name: the folder's, or `dummy:NAME`. */
  readonly name: string
  /** Absolute path of the folder; undefined for a generated model. */
  readonly folder: string | undefined
  readonly config: ModelConfig
  /** Tokens that end a text, from config.json and generation_config.json. */
  readonly stopTokens: readonly number[]
  /** SHA-256, hexadecimal; cached by each file's path, size and time of change. */
  digest(): Promise<string>
  /** Opens the weights; the caller closes them. */
  openWeights(): WeightSource
}

/** Throws NotFoundError, InvalidInputError or UnsupportedError, each one sentence for the user. */
export async function resolveModel(spec: string): Promise<ResolvedModel> {
  if (spec.startsWith(DUMMY_PREFIX)) {
    const dummy = spec.slice(DUMMY_PREFIX.length)
    const config = dummyConfig(dummy)
    return {
      name: spec,
      folder: undefined,
      config,
      stopTokens: config.stopTokens,
      digest: async () =>
        createHash('sha256')
          .update(`${spec} ${JSON.stringify(config)}`)
          .digest('hex'),
      openWeights: () => dummyWeights(dummy),
    }
  }
  const folder = await findFolder(spec)
  const name = basename(folder)
  const config = parseModelConfig(await readJson(join(folder, 'config.json')), name)
  const generation = await readJsonIfPresent(join(folder, 'generation_config.json'))
  const stopTokens = [...new Set([...config.stopTokens, ...tokenIdList(generation?.eos_token_id)])]
  return {
    name,
    folder,
    config,
    stopTokens,
    digest: () => folderDigest(folder),
    openWeights: () => openSafetensors(folder),
  }
}

/** Parses a JSON file of a model; a missing or damaged one is an InvalidInputError. */
export async function readJson(path: string): Promise<Record<string, unknown>> {
  const json = await readJsonIfPresent(path)
  if (json === undefined) {
    throw new InvalidInputError(`The model file ${path} is missing; fetch the model again.`)
  }
  return json
}

export async function readJsonIfPresent(path: string): Promise<Record<string, unknown> | undefined> {
  const text = await readTextIfPresent(path)
  if (text === undefined) return undefined
  try {
    const json: unknown = JSON.parse(text)
    if (typeof json === 'object' && json !== null) return json as Record<string, unknown>
    throw new Error('not an object')
  } catch (error) {
    throw new InvalidInputError(
      `The model file ${path} is not valid JSON: ${messageOf(error)}; fetch the model again.`,
    )
  }
}

export async function readTextIfPresent(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if (isMissing(error)) return undefined
    throw new InvalidInputError(`The model file ${path} cannot be read: ${messageOf(error)}.`)
  }
}

async function findFolder(spec: string): Promise<string> {
  const candidates = [resolve(spec)]
  if (spec !== '' && spec === basename(spec)) candidates.push(join(projectRoot(), 'models', spec))
  for (const candidate of candidates) {
    const found = await stat(candidate).catch(() => undefined)
    // A folder that happens to have the name of a bundled model is not the model.
    if (found?.isDirectory() && (await stat(join(candidate, 'config.json')).catch(() => undefined))) {
      return candidate
    }
  }
  for (const candidate of candidates) {
    if (await stat(candidate).catch(() => undefined)) {
      throw new InvalidInputError(
        `${candidate} is not a model folder: it has no config.json; name a folder in Hugging Face layout.`,
      )
    }
  }
  throw new NotFoundError(
    `There is no model ${spec}; name a folder in Hugging Face layout, a model in models/, or ${DUMMY_PREFIX}llama-0.5b.`,
  )
}

async function folderDigest(folder: string): Promise<string> {
  const hash = createHash('sha256')
  for (const name of ['config.json', ...weightFiles(folder)]) {
    hash.update(`${name}\0${await fileDigest(join(folder, name))}\n`)
  }
  return hash.digest('hex')
}

/** SHA-256 of a file; of a large one only when it is new or has changed. */
async function fileDigest(path: string): Promise<string> {
  const { size, mtimeMs } = await stat(path)
  const key = createHash('sha256').update(`${path}\0${size}\0${mtimeMs}`).digest('hex')
  const cached = join(cacheFolder(), 'digests', key)
  const known = await readFile(cached, 'utf8').catch(() => '')
  if (/^[0-9a-f]{64}$/.test(known)) return known
  const hash = createHash('sha256')
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash)
  const digest = hash.digest('hex')
  // The cache only saves time: a folder that cannot be written is no reason to fail.
  const temporary = `${cached}.${process.pid}`
  await mkdir(join(cacheFolder(), 'digests'), { recursive: true })
    .then(() => writeFile(temporary, digest))
    .then(() => rename(temporary, cached))
    .catch(() => undefined)
  return digest
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR')
}
