/**
 * The folder of models that were fetched from other agents: `DIGEST/NAME/` has the files of one, and
 * `DIGEST/model.json`, written last, says that they are whole.
 *
 * Invariants:
 * C1 What is found is complete and was verified; a fetch that was interrupted leaves its files, and what is there of
 *    the current one as `.part`, for the next try.
 * C2 Names come from other machines: one that is more than a plain file name is refused.
 */
import { readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { DescribeResponse } from '@kvasir/proto/kvasir/model/v1/model'
import { CorruptDataError, messageOf } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'

const GGUF_ENDING = '.gguf'
const FILES_MAX = 10_000
/** What stands beside the files of a model. */
const OWN_FILES: readonly string[] = ['model.json', 'lock']

export interface CachedModel {
  readonly digest: string
  readonly name: string
  /** As a driver takes it. */
  readonly spec: string
}

export class ModelCache {
  constructor(
    readonly folder: string,
    private readonly log: Logger,
  ) {}

  /** Of the digest, or where that is empty the one of this name that was fetched last. */
  async find(name: string, digest: string): Promise<CachedModel | undefined> {
    const digests = digest === '' ? await readdir(this.folder).catch(() => []) : [digest]
    const found = (await Promise.all(digests.map((known) => this.read(known)))).filter(
      (model) => model !== undefined && (digest !== '' || model.name === name),
    )
    return found.sort((a, b) => (b?.fetchedAtMs ?? 0) - (a?.fetchedAtMs ?? 0))[0]
  }

  /** Where all that belongs to a model is. */
  folderOf(digest: string): string {
    if (!/^[0-9a-f]{64}$/.test(digest))
      throw new CorruptDataError('A digest of a model is not one; ask anew.')
    return join(this.folder, digest)
  }

  /** Where its files are, and what a driver is given. */
  filesOf({ digest, name, files }: DescribeResponse): { readonly folder: string; readonly spec: string } {
    const folder = join(this.folderOf(digest), name)
    const [first, ...others] = files
    const isGguf = first !== undefined && others.length === 0 && first.name.endsWith(GGUF_ENDING)
    return { folder, spec: isGguf ? join(folder, first.name) : folder }
  }

  /** All files are there and verified. */
  async complete(manifest: DescribeResponse): Promise<CachedModel> {
    const { digest, name } = manifest
    const { spec } = this.filesOf(manifest)
    const path = join(this.folderOf(digest), 'model.json')
    const kept = {
      name,
      file: spec.endsWith(GGUF_ENDING) ? basename(spec) : undefined,
      fetchedAtMs: Date.now(),
    }
    await writeFile(`${path}.part`, `${JSON.stringify(kept)}\n`)
    await rename(`${path}.part`, path)
    return { digest, name, spec }
  }

  /** It turned out to be damaged. */
  async drop(digest: string): Promise<void> {
    await rm(this.folderOf(digest), { recursive: true, force: true })
  }

  private async read(digest: string): Promise<(CachedModel & { readonly fetchedAtMs: number }) | undefined> {
    try {
      const folder = this.folderOf(digest)
      const kept: unknown = JSON.parse(await readFile(join(folder, 'model.json'), 'utf8'))
      if (typeof kept !== 'object' || kept === null || !('name' in kept)) return undefined
      const name = checkedName(String(kept.name))
      const file = 'file' in kept ? checkedName(String(kept.file)) : ''
      const spec = join(folder, name, file)
      await stat(spec)
      const fetchedAtMs = 'fetchedAtMs' in kept ? Number(kept.fetchedAtMs) : 0
      return { digest, name, spec, fetchedAtMs }
    } catch (error) {
      this.log.debug(`no model is cached in ${digest}: ${messageOf(error)}`)
      return undefined
    }
  }
}

/** Throws CorruptDataError for a manifest that no agent of ours writes. */
export function checkManifest(manifest: DescribeResponse, digest: string): void {
  const { name, files } = manifest
  if (manifest.digest !== digest) throw new CorruptDataError('The manifest is of another model.')
  checkedName(name)
  if (OWN_FILES.includes(name)) throw notPlain(name)
  if (files.length === 0 || files.length > FILES_MAX) {
    throw new CorruptDataError(`The manifest names ${files.length} files.`)
  }
  if (new Set(files.map((file) => file.name)).size !== files.length) {
    throw new CorruptDataError('The manifest names a file twice.')
  }
  for (const file of files) {
    checkedName(file.name)
    if (!/^[0-9a-f]{64}$/.test(file.sha256)) throw new CorruptDataError(`The digest of ${file.name} is none.`)
  }
}

function checkedName(name: string): string {
  const isPlain = name !== '' && name.length <= 200 && !name.startsWith('.') && !/[/\\\0]/.test(name)
  if (isPlain && !name.endsWith('.part')) return name
  throw notPlain(name)
}

function notPlain(name: string): CorruptDataError {
  return new CorruptDataError(`${JSON.stringify(name)} is not the name of a model or of a file of one.`)
}

/** The name of a model by which others know what a user names by a path. */
export function modelName(spec: string): string {
  const name = basename(spec)
  return name.endsWith(GGUF_ENDING) ? name.slice(0, -GGUF_ENDING.length) : name
}
