/**
 * Fetches the files of a model from the agents that have it, into the cache.
 *
 * Invariants:
 * T1 What is received stays, whatever ends the fetch, and the next one goes on behind it, from any agent that has the
 *    model; but not a file whose digest is wrong in the end.
 * T2 Every file matches its SHA-256, and all together the digest of the model, before anything is used.
 * T3 An agent that sends what does not match, or does not give files at all, is asked no more; one that is busy or cannot
 *    be reached is, until GIVE_UP_MS have passed without a byte and without an agent that was busy.
 */
import { statfs } from 'node:fs/promises'
import { resolveModel } from '@kvasir/engine/model-files'
import { type DescribeResponse, ModelServiceClient } from '@kvasir/proto/kvasir/model/v1/model'
import type { Clock } from '@kvasir/runtime/clock'
import { delay } from '@kvasir/runtime/deferred'
import {
  CorruptDataError,
  KvasirError,
  NotFoundError,
  OverloadedError,
  UnreachableError,
  UnsupportedError,
} from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import { callUnary, createRpcClient } from '@kvasir/runtime/rpc-client'
import { BULK_WINDOW_BYTES } from '@kvasir/runtime/rpc-limits'
import { withFolderLock } from './folder-lock.js'
import { type CachedModel, checkManifest, type ModelCache } from './model-cache.js'
import { bytesPresent, diskFull, fetchFile, isDiskFull, StaleStartError } from './model-file-fetch.js'
import type { ModelPeer, ModelPeers } from './model-peers.js'

/** An agent hashes its files before it answers for the first time. */
const DESCRIBE_MS = 60_000
const RETRY_MS = 1_000
const GIVE_UP_MS = 30_000
/** From an agent: asked again it would say the same. */
const USELESS = [CorruptDataError, NotFoundError, UnsupportedError] as const

export interface FetchParts {
  readonly peers: ModelPeers
  readonly cache: ModelCache
  readonly clock: Clock
  readonly log: Logger
  /** In place of GIVE_UP_MS. */
  readonly giveUpMs?: number
}

export interface FetchHooks {
  readonly signal: AbortSignal
  progress(bytes: number, bytesTotal: number, deviceId: string): void
}

/** `name`: for people. Throws UnreachableError, CorruptDataError, or OverloadedError where the disk is full. */
export function fetchModel(
  parts: FetchParts,
  model: { readonly name: string; readonly digest: string },
  hooks: FetchHooks,
): Promise<CachedModel> {
  const { cache } = parts
  return withFolderLock(cache.folderOf(model.digest), hooks.signal, async () => {
    // Another process may have fetched it meanwhile.
    const known = await cache.find(model.name, model.digest)
    return known ?? new ModelFetch(parts, model, hooks).run()
  }).catch((error: unknown) => {
    throw isDiskFull(error) ? diskFull(cache.folder, error) : KvasirError.from(error)
  })
}

/** What is in the way is on this machine, so that no other agent helps. */
class FaultHereError extends Error {
  constructor(readonly fault: KvasirError) {
    super(fault.message)
  }
}

class ModelFetch {
  /** When the last byte came, or an agent was there and busy. */
  private heardMs: number
  /** What they send does not match, or they have no files. */
  private readonly useless = new Set<string>()
  private failure: KvasirError | undefined

  constructor(
    private readonly parts: FetchParts,
    private readonly model: { readonly name: string; readonly digest: string },
    private readonly hooks: FetchHooks,
  ) {
    this.heardMs = parts.clock.nowMs()
  }

  async run(): Promise<CachedModel> {
    const { clock, giveUpMs = GIVE_UP_MS } = this.parts
    const { signal } = this.hooks
    for (;;) {
      for (const peer of this.candidates()) {
        const fetched = await this.tryFrom(peer)
        if (fetched !== undefined) return fetched
      }
      const isHopeless = this.candidates().length === 0 && this.useless.size > 0
      if (isHopeless || clock.nowMs() - this.heardMs > giveUpMs) throw this.givingUp()
      await delay(RETRY_MS, signal)
      signal.throwIfAborted()
    }
  }

  private candidates(): readonly ModelPeer[] {
    const { peers } = this.parts
    return peers
      .find(this.model.name, this.model.digest)
      .filter(({ deviceId }) => !this.useless.has(deviceId))
  }

  /** Undefined where another try is worth it. */
  private async tryFrom(peer: ModelPeer): Promise<CachedModel | undefined> {
    const { log, clock } = this.parts
    try {
      return await this.fetchFrom(peer)
    } catch (thrown) {
      this.hooks.signal.throwIfAborted()
      if (isDiskFull(thrown)) throw thrown
      if (thrown instanceof FaultHereError) throw thrown.fault
      if (thrown instanceof StaleStartError) {
        log.warn(thrown.message)
        return undefined
      }
      const error = KvasirError.from(thrown)
      if (error instanceof OverloadedError) this.heardMs = clock.nowMs()
      if (USELESS.some((kind) => error instanceof kind)) this.useless.add(peer.deviceId)
      this.failure = error
      log.warn(`model ${this.model.name} could not be fetched from ${peer.deviceId}: ${error.message}`)
      return undefined
    }
  }

  private async fetchFrom(peer: ModelPeer): Promise<CachedModel> {
    const { cache } = this.parts
    const { signal } = this.hooks
    const { digest } = this.model
    const client = createRpcClient(ModelServiceClient, peer.endpoint, {
      windowBytes: BULK_WINDOW_BYTES,
      channelKey: 'model',
    })
    try {
      const manifest = await callUnary(client, 'describe', { digest }, { timeoutMs: DESCRIBE_MS, signal })
      checkManifest(manifest, digest)
      await this.fetchFiles(client, peer, manifest)
      await this.checkModel(manifest)
      return await cache.complete(manifest)
    } finally {
      client.close()
    }
  }

  private async fetchFiles(
    client: ModelServiceClient,
    { deviceId }: ModelPeer,
    manifest: DescribeResponse,
  ): Promise<void> {
    const { cache, clock } = this.parts
    const { signal } = this.hooks
    const { folder } = cache.filesOf(manifest)
    const { digest: modelDigest, files } = manifest
    const bytesTotal = files.reduce((sum, file) => sum + Number(file.bytes), 0)
    const present = await Promise.all(files.map((file) => bytesPresent(folder, file)))
    let bytes = present.reduce((sum, own) => sum + own, 0)
    const { bavail, bsize } = await statfs(cache.folder)
    const lacking = bytesTotal - bytes
    if (lacking > bavail * bsize) throw new FaultHereError(diskFull(cache.folder, undefined, lacking))
    this.hooks.progress(bytes, bytesTotal, deviceId)
    for (const file of files) {
      await fetchFile({ client, deviceId, modelDigest, file, folder, signal }, (more) => {
        this.heardMs = clock.nowMs()
        bytes += more
        this.hooks.progress(bytes, bytesTotal, deviceId)
      })
    }
  }

  /** Every file is what the manifest says: now the manifest has to be the model's. */
  private async checkModel(manifest: DescribeResponse): Promise<void> {
    const { digest, name } = this.model
    const { spec } = this.parts.cache.filesOf(manifest)
    const found = await resolveModel(spec).catch((error: unknown) => {
      throw error instanceof UnsupportedError ? new FaultHereError(error) : error
    })
    if ((await found.digest()) === digest) return
    await this.parts.cache.drop(digest)
    throw new CorruptDataError(`The files are not those of the model ${name}; what came was deleted.`)
  }

  private givingUp(): KvasirError {
    const { name, digest } = this.model
    const why = this.failure?.message ?? 'no agent that has it can be reached'
    const isUseless = this.candidates().length === 0 && this.useless.size > 0
    const next = isUseless
      ? 'put its files on this machine, or load it on another device first'
      : 'what has come is kept; load it again to go on from there'
    const message = `The model ${name} (${digest.slice(0, 16)}) could not be fetched: ${why} ${capital(next)}.`
    if (isUseless) return new CorruptDataError(message)
    return new UnreachableError(message, this.failure === undefined ? {} : { cause: this.failure })
  }
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}
