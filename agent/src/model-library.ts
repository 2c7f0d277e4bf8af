/**
 * The files of the models that this agent serves, for others to fetch.
 *
 * Invariant: a file is found by the SHA-256 that it has now: one that was changed or removed is not found.
 */

import { stat } from 'node:fs/promises'
import { basename } from 'node:path'
import { fileDigest } from '@kvasir/engine/file-digest'
import { type ModelFile, resolveModel } from '@kvasir/engine/model-files'
import { messageOf } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'

interface Shelved {
  readonly name: string
  readonly files: readonly ModelFile[]
}

export interface DescribedFile {
  readonly name: string
  readonly path: string
  readonly bytes: number
  readonly sha256: string
  readonly text: boolean
}

export class ModelLibrary {
  private readonly shelved = new Map<string, Promise<Shelved | undefined>>()

  constructor(private readonly log: Logger) {}

  /** `spec`: as `resolveModel` takes it. */
  add(digest: string, spec: string): void {
    this.shelved.set(digest, this.shelve(spec))
  }

  remove(digest: string): void {
    this.shelved.delete(digest)
  }

  /** Undefined for a model that is not served, or has no files. Digests of large files take time the first time. */
  async describe(digest: string): Promise<{ name: string; files: DescribedFile[] } | undefined> {
    const shelved = await this.shelved.get(digest)
    if (shelved === undefined) return undefined
    const files: DescribedFile[] = []
    try {
      for (const { name, path, text } of shelved.files) {
        const { size } = await stat(path)
        files.push({ name, path, text, bytes: size, sha256: await fileDigest(path) })
      }
    } catch (error) {
      this.log.warn(`the files of the model ${shelved.name} can no longer be read: ${messageOf(error)}`)
      return undefined
    }
    return { name: shelved.name, files }
  }

  private async shelve(spec: string): Promise<Shelved | undefined> {
    try {
      const { name, files } = await resolveModel(spec)
      const all = await files()
      return all.length === 0 ? undefined : { name, files: all }
    } catch (error) {
      // A driver in a process of its own may see other files than this one.
      this.log.debug(
        `the files of the model ${basename(spec)} cannot be given to others: ${messageOf(error)}`,
      )
      return undefined
    }
  }
}
