/**
 * CorpusService as a device serves it that searches shards of corpora: it fetches a shard from its owner into the
 * driver, and answers queries with the driver's kernels. The owner itself gives bit-equal answers.
 *
 * Invariants:
 * V1 The books (ShardShelf) count a shard before its bytes come. It leaves them as the driver is told to let go,
 *    and the driver does so before it takes another, since its calls take effect in order.
 * V2 Calls for the same shard share one fetch, which ends when the last of them has left.
 * V3 Shards die with the agent; the owner has all that is needed to make them again.
 */
import type { DeviceDriver } from '@kvasir/engine/device-driver'
import { Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import {
  type CorpusServiceServer,
  CorpusServiceService,
  type LoadShardRequest,
  type RetrieveRequest,
  type RetrieveResponse,
  type UnloadShardRequest,
} from '@kvasir/proto/kvasir/memory/v1/corpus'
import { withDeadline, withSignal } from '@kvasir/runtime/deferred'
import {
  CancelledError,
  CorruptDataError,
  DeadlineError,
  InvalidInputError,
  NotFoundError,
  OverloadedError,
  UnavailableError,
} from '@kvasir/runtime/errors'
import { unary } from '@kvasir/runtime/rpc-server'
import { withSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import { ableDriver, type Device } from './device.js'
import type { DeviceService } from './services.js'
import type { AgentSettings } from './settings.js'
import { fetchShard } from './shard-fetch.js'
import { corpusRefusals } from './shard-refusals.js'
import { type CheckedShard, checkedCorpus, checkedQuery, checkedShard } from './shard-requests.js'
import { shardAttributes, shardSearch } from './shard-search.js'
import { ShardShelf } from './shard-shelf.js'

/** Longest fetch of a shard. */
const LOAD_MS = 300_000
/** Longest kernel call: a device that takes longer hangs. */
const KERNEL_MS = 60_000

interface Fetch {
  readonly done: Promise<number>
  readonly stop: AbortController
  waiting: number
}

export function shardService(device: Device, settings: AgentSettings): DeviceService {
  const shards = new ShardService(device, settings.shardBytes)
  const implementation: CorpusServiceServer = {
    ...corpusRefusals(device.deviceId),
    load: unary(async (request, { signal }) => ({ bytes: BigInt(await shards.load(request, signal)) })),
    unload: unary(async (request) => ({ bytes: BigInt(await shards.unload(request)) })),
    retrieve: unary((request, { signal }) => shards.retrieve(request, signal)),
  }
  return {
    control: [{ definition: CorpusServiceService, implementation }],
    corpusBytes: () => ({ capacity: BigInt(settings.shardBytes), used: BigInt(shards.usedBytes) }),
    async close() {
      shards.close()
    },
  }
}

class ShardService {
  private readonly shelf: ShardShelf
  private readonly fetches = new Map<string, Fetch>()

  constructor(
    private readonly device: Device,
    shardBytes: number,
  ) {
    this.shelf = new ShardShelf(shardBytes, device.clock)
  }

  get usedBytes(): number {
    return this.shelf.usedBytes
  }

  async load(request: LoadShardRequest, signal: AbortSignal): Promise<number> {
    const shard = checkedShard(request.shard, 'LoadShardRequest')
    if (request.sourceEndpoint === '') {
      throw new InvalidInputError('LoadShardRequest.source_endpoint is missing; set it.', {
        param: 'source_endpoint',
      })
    }
    let fetch: Fetch
    for (;;) {
      const bytes = this.shelf.bytesOf(shard.key)
      if (bytes !== undefined) return bytes
      fetch = this.fetches.get(shard.key) ?? this.begin(shard, request)
      if (!fetch.stop.signal.aborted) break
      // Another fetch of it is being given up; this one begins when that has let go.
      await withSignal(
        fetch.done.catch(() => {}),
        signal,
      )
    }
    fetch.waiting += 1
    try {
      return await withSignal(fetch.done, signal)
    } finally {
      fetch.waiting -= 1
      if (fetch.waiting === 0) fetch.stop.abort(new CancelledError('Nobody waits for the shard any more.'))
    }
  }

  async unload({ corpus, beforeVersion }: UnloadShardRequest): Promise<number> {
    const { corpusKey } = checkedCorpus(corpus, 'UnloadShardRequest')
    let bytes = 0
    for (const key of this.shelf.keysOf(corpusKey, beforeVersion)) {
      const fetch = this.fetches.get(key)
      if (fetch === undefined) bytes += await this.drop(key)
      else fetch.stop.abort(new CancelledError('The shard was unloaded while it was on its way.'))
    }
    return bytes
  }

  retrieve(request: RetrieveRequest, signal: AbortSignal): Promise<RetrieveResponse> {
    const checked = checkedShard(request.shard, 'RetrieveRequest')
    const { corpus, key } = checked
    const query = checkedQuery(request)
    return shardSearch(checked, async () => {
      const end = this.shelf.search(key)
      if (end === undefined) throw this.notHeld(corpus.name)
      try {
        const searching = this.driver.runKernel('bm25-search', { key, ...query })
        return await withDeadline(withSignal(searching, signal), KERNEL_MS, 'waiting for the device')
      } finally {
        end()
      }
    })
  }

  close(): void {
    const reason = new UnavailableError('The device is stopping; choose another.')
    for (const { stop } of this.fetches.values()) stop.abort(reason)
  }

  private begin(shard: CheckedShard, request: LoadShardRequest): Fetch {
    const stop = new AbortController()
    const late = setTimeout(
      () => stop.abort(new DeadlineError(`A shard did not arrive within ${LOAD_MS} ms.`)),
      LOAD_MS,
    )
    const done = this.fetch(shard, request, stop.signal).finally(() => {
      clearTimeout(late)
      this.fetches.delete(shard.key)
    })
    // Its callers may all have left.
    done.catch(() => {})
    const fetch = { done, stop, waiting: 0 }
    this.fetches.set(shard.key, fetch)
    return fetch
  }

  private fetch(shard: CheckedShard, request: LoadShardRequest, signal: AbortSignal): Promise<number> {
    const { corpus, version, range, key } = shard
    const { sourceDeviceId, sourceEndpoint } = request
    const attributes = { ...shardAttributes(shard), [ATTRIBUTE.fetchedFrom]: sourceDeviceId }
    return withSpan(SPAN.shardLoad, attributes, async (span) => {
      const source = {
        shard: { corpus, version, ...range },
        deviceId: sourceDeviceId,
        endpoint: sourceEndpoint,
      }
      let unloading: Promise<unknown> = Promise.resolve()
      let reserved = false
      try {
        const bytes = await fetchShard(
          source,
          (header) => {
            if (
              header.firstDocument !== range.firstDocument ||
              header.documentCount !== range.documentCount
            ) {
              throw new CorruptDataError(`${sourceDeviceId} sent another shard than the one asked for.`)
            }
            this.checkSize(header.bytes)
            const gone = this.shelf.reserve(shard, header.bytes)
            reserved = true
            unloading = Promise.all(gone.map((other) => this.unloadInDriver(other)))
          },
          signal,
        )
        await unloading
        const loading = this.driver.runKernel('bm25-load', { key, shard: bytes })
        const taken = await withDeadline(loading, KERNEL_MS, 'waiting for the device')
        signal.throwIfAborted()
        this.shelf.arrived(key)
        span.setAttribute(ATTRIBUTE.kvBytes, taken)
        this.device.log.info({ corpus: corpus.name, shard: key, bytes: taken }, 'shard is loaded')
        return taken
      } catch (error) {
        await unloading.catch(() => {})
        if (reserved) await this.drop(key).catch(() => {})
        throw error
      }
    })
  }

  private async drop(key: string): Promise<number> {
    const bytes = this.shelf.remove(key)
    await this.unloadInDriver(key)
    return bytes
  }

  private unloadInDriver(key: string): Promise<undefined> {
    return withDeadline(this.driver.runKernel('bm25-unload', { key }), KERNEL_MS, 'waiting for the device')
  }

  /** What the kernel takes at once, whatever room there is. */
  private checkSize(bytes: number): void {
    const kernel = this.driver.describe().kernels.find(({ name }) => name === 'bm25-load')
    const most = kernel?.limits.shardBytes ?? Number.POSITIVE_INFINITY
    if (bytes <= most) return
    const { deviceId } = this.device
    throw new OverloadedError(
      `The shard takes ${bytes} bytes, and device ${deviceId} takes shards of at most ${most}; cut the corpus into more.`,
      { param: 'shardBytes', ids: { deviceId } },
    )
  }

  private get driver(): DeviceDriver {
    return ableDriver(this.device, Capability.RETRIEVE)
  }

  private notHeld(corpus: string): NotFoundError {
    const { deviceId } = this.device
    return new NotFoundError(
      `Device ${deviceId} does not hold this shard of the corpus ${corpus}; load it there first.`,
      { param: 'shard', ids: { deviceId } },
    )
  }
}
