/**
 * Finds a model by the name a user gives, and reads everything about it but its weights.
 *
 * R1 `dummy:NAME` is a generated model. Anything else is a folder in Hugging Face layout, a GGUF file, or a
 *    folder that holds a single GGUF file and no config.json: a path, or a name in the project's models/.
 * R2 The digest covers config.json and the weights: what decides the numbers in KV blocks.
 */
import { createHash } from 'node:crypto'
import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { InvalidInputError, messageOf, NotFoundError } from '@kvasir/runtime/errors'
import { projectRoot } from '@kvasir/runtime/state-folder'
import { dummyWeights } from './dummy-model.js'
import { DUMMY_PREFIX, dummyConfig } from './dummy-shapes.js'
import { fileDigest } from './file-digest.js'
import { GGUF_ENDING, resolveGguf } from './gguf/gguf-model.js'
import { type ModelConfig, parseModelConfig, tokenIdList } from './model-config.js'
import { openSafetensors, WEIGHT_INDEX, weightFiles } from './safetensors.js'
import type { WeightSource } from './weight-source.js'

export interface ResolvedModel {
  /** Short name: the folder's, the GGUF file's without its ending, or `dummy:NAME`. */
  readonly name: string
  /** Absolute path of the folder or of the GGUF file; undefined for a generated model. */
  readonly path: string | undefined
  readonly config: ModelConfig
  /** Tokens that end a text, from config.json and generation_config.json, or GGUF's metadata. */
  readonly stopTokens: readonly number[]
  /** SHA-256, hexadecimal; cached by each file's path, size and time of change. */
  digest(): Promise<string>
  /** Opens the weights; the caller closes them. */
  openWeights(): WeightSource
  /** What another machine needs to load it too; none for a generated model. */
  files(): Promise<readonly ModelFile[]>
  /** What turns text into tokens and back; undefined for a generated model. */
  readTokenizer(): Promise<TokenizerFiles | undefined>
}

/** A file that a model is made of. */
export interface ModelFile {
  /** Without any folder. */
  readonly name: string
  readonly path: string
  /** Needed to turn text into tokens and back; the others hold weights. */
  readonly text: boolean
}

/** A tokenizer as Hugging Face writes it down, wherever it came from. */
export interface TokenizerFiles {
  /** tokenizer.json. */
  readonly tokenizer: Record<string, unknown>
  /** tokenizer_config.json. */
  readonly settings: Record<string, unknown>
  /** Jinja source, where it has a file of its own. */
  readonly chatTemplate: string | undefined
}

/** Of a folder; config.json and generation_config.json tell limits and ends of text. */
const TEXT_FILES = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
]

/** Throws NotFoundError, InvalidInputError or UnsupportedError, each one sentence for the user. */
export async function resolveModel(spec: string): Promise<ResolvedModel> {
  if (spec.startsWith(DUMMY_PREFIX)) return resolveDummy(spec)
  const path = await findModel(spec)
  return path.endsWith(GGUF_ENDING) ? resolveGguf(path) : resolveFolder(path)
}

function resolveDummy(spec: string): ResolvedModel {
  const dummy = spec.slice(DUMMY_PREFIX.length)
  const config = dummyConfig(dummy)
  return {
    name: spec,
    path: undefined,
    config,
    stopTokens: config.stopTokens,
    digest: async () =>
      createHash('sha256')
        .update(`${spec} ${JSON.stringify(config)}`)
        .digest('hex'),
    openWeights: () => dummyWeights(dummy),
    files: async () => [],
    readTokenizer: async () => undefined,
  }
}

async function resolveFolder(folder: string): Promise<ResolvedModel> {
  const name = basename(folder)
  const config = parseModelConfig(await readJson(join(folder, 'config.json')), name)
  const generation = await readJsonIfPresent(join(folder, 'generation_config.json'))
  const stopTokens = [...new Set([...config.stopTokens, ...tokenIdList(generation?.eos_token_id)])]
  return {
    name,
    path: folder,
    config,
    stopTokens,
    digest: () => folderDigest(folder),
    openWeights: () => openSafetensors(folder),
    files: () => folderFiles(folder),
    readTokenizer: async () => ({
      tokenizer: await readJson(join(folder, 'tokenizer.json')),
      settings: (await readJsonIfPresent(join(folder, 'tokenizer_config.json'))) ?? {},
      chatTemplate: await readTextIfPresent(join(folder, 'chat_template.jinja')),
    }),
  }
}

/** Parses a JSON file of a model; a missing or damaged one is an InvalidInputError. */
async function readJson(path: string): Promise<Record<string, unknown>> {
  const json = await readJsonIfPresent(path)
  if (json === undefined) {
    throw new InvalidInputError(`The model file ${path} is missing; fetch the model again.`)
  }
  return json
}

async function readJsonIfPresent(path: string): Promise<Record<string, unknown> | undefined> {
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

async function readTextIfPresent(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if (isMissing(error)) return undefined
    throw new InvalidInputError(`The model file ${path} cannot be read: ${messageOf(error)}.`)
  }
}

/** Absolute path of a folder with a config.json, or of a GGUF file. */
async function findModel(spec: string): Promise<string> {
  const candidates = [resolve(spec)]
  if (spec !== '' && spec === basename(spec)) candidates.push(join(projectRoot(), 'models', spec))
  for (const candidate of candidates) {
    const found = await stat(candidate).catch(() => undefined)
    if (found?.isFile() && candidate.endsWith(GGUF_ENDING)) return candidate
    // A folder that happens to have the name of a bundled model is not the model.
    if (!found?.isDirectory()) continue
    const names = await readdir(candidate)
    if (names.includes('config.json')) return candidate
    const [file, ...others] = names.filter((name) => name.endsWith(GGUF_ENDING))
    if (file === undefined) continue
    if (others.length === 0) return join(candidate, file)
    throw new InvalidInputError(
      `The folder ${candidate} holds ${others.length + 1} GGUF files; name one of them, such as ${join(spec, file)}.`,
    )
  }
  for (const candidate of candidates) {
    if (await stat(candidate).catch(() => undefined)) {
      throw new InvalidInputError(
        `${candidate} is not a model: it has no config.json and is no GGUF file; name a folder in Hugging Face layout or a GGUF file.`,
      )
    }
  }
  throw new NotFoundError(
    `There is no model ${spec}; name a folder in Hugging Face layout, a GGUF file, a model in models/, or ${DUMMY_PREFIX}llama-0.5b.`,
  )
}

async function folderDigest(folder: string): Promise<string> {
  const hash = createHash('sha256')
  for (const name of ['config.json', ...weightFiles(folder)]) {
    hash.update(`${name}\0${await fileDigest(join(folder, name))}\n`)
  }
  return hash.digest('hex')
}

async function folderFiles(folder: string): Promise<ModelFile[]> {
  const names = await readdir(folder)
  const weights = weightFiles(folder)
  if (names.includes(WEIGHT_INDEX)) weights.push(WEIGHT_INDEX)
  return [
    ...TEXT_FILES.filter((name) => names.includes(name)).map((name) => ({ name, text: true })),
    ...weights.map((name) => ({ name, text: false })),
  ].map(({ name, text }) => ({ name, path: join(folder, name), text }))
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR')
}
