/**
 * Which corpora there are and who keeps them, learned from the devices that keep them: a coordinator
 * that restarts asks again, and what another coordinator made or deleted is noticed when it is missed.
 *
 * Invariant: an entry may be stale, which costs another question and never a wrong answer, since its
 * owner is asked for every search. What is known of an owner that does not answer is kept, so that an
 * error can say who is missing.
 */
import type { CorpusInfo, CorpusRef } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { NotFoundError, UnavailableError } from '@kvasir/runtime/errors'
import { callUnary } from '@kvasir/runtime/rpc-client'
import type { RetrievalDevices, RetrievalNode } from './retrieval-devices.js'

const LIST_TIMEOUT_MS = 3_000
const RETRY_AFTER_MS = 1_000
/** Entries of owners that do not answer; beyond it the oldest are forgotten. */
const CORPORA_MAX = 10_000

export interface KnownCorpus {
  readonly key: string
  readonly ref: CorpusRef
  readonly info: CorpusInfo
  /** Device id of the owner. */
  readonly ownerId: string
}

export interface ReachableCorpus extends KnownCorpus {
  readonly owner: RetrievalNode
}

/** Unique over all tenants. */
export function corpusKey({ name, tenantSalt }: CorpusRef): string {
  return `${Buffer.from(tenantSalt).toString('hex')}/${name}`
}

/** What `corpusKey` was made of. */
export function corpusOfKey(key: string): CorpusRef {
  const cut = key.indexOf('/')
  return { name: key.slice(cut + 1), tenantSalt: Buffer.from(key.slice(0, cut), 'hex') }
}

export class CorpusDirectory {
  readonly #devices: RetrievalDevices
  readonly #known = new Map<string, KnownCorpus>()
  #refreshing: Promise<readonly string[]> | undefined

  constructor(devices: RetrievalDevices) {
    this.#devices = devices
  }

  /** Throws NotFoundError, or UnavailableError where its owner, or whoever may be, does not answer. */
  async find(ref: CorpusRef): Promise<ReachableCorpus> {
    const key = corpusKey(ref)
    const silent = this.#reachable(key) ? [] : await this.refresh()
    const found = this.#reachable(key)
    if (found) return found
    const known = this.#known.get(key)
    if (known) throw ownerMissing(known)
    if (this.#stores().length === 0 && silent.length === 0) throw noStore()
    if (silent.length > 0) {
      throw new UnavailableError(
        `No corpus "${ref.name}" is known, but ${silent.join(' and ')}, which may keep it, does not answer: start it again, or wait until it is back.`,
        { retryAfterMs: RETRY_AFTER_MS },
      )
    }
    throw new NotFoundError(
      `There is no corpus "${ref.name}" here. Create it first; names are case-sensitive.`,
    )
  }

  /** Asks everyone who keeps corpora; returns those that did not answer. */
  refresh(): Promise<readonly string[]> {
    this.#refreshing ??= this.#refresh().finally(() => {
      this.#refreshing = undefined
    })
    return this.#refreshing
  }

  /** Known ones, of owners that do not answer too, by name. */
  ofTenant(tenantSalt: Uint8Array): readonly KnownCorpus[] {
    const salt = Buffer.from(tenantSalt)
    return [...this.#known.values()]
      .filter(({ ref }) => salt.equals(ref.tenantSalt))
      .sort((a, b) => (a.ref.name < b.ref.name ? -1 : 1))
  }

  known(key: string): KnownCorpus | undefined {
    return this.#known.get(key)
  }

  all(): readonly KnownCorpus[] {
    return [...this.#known.values()]
  }

  /** The one that a new corpus goes to: what keeps least. Throws UnavailableError where there is none. */
  storeForNew(): RetrievalNode {
    const bytes = new Map<string, number>()
    for (const { ownerId, info } of this.#known.values()) {
      bytes.set(ownerId, (bytes.get(ownerId) ?? 0) + Number(info.textBytes))
    }
    const fill = ({ ref }: RetrievalNode) => bytes.get(ref.deviceId) ?? 0
    const [emptiest] = this.#stores().sort((a, b) => fill(a) - fill(b))
    if (!emptiest) throw noStore()
    return emptiest
  }

  /** What the owner itself said of a corpus. */
  update(ownerId: string, info: CorpusInfo): KnownCorpus {
    const ref = { name: info.name, tenantSalt: info.tenantSalt }
    const key = corpusKey(ref)
    const before = this.#known.get(key)
    const isOlder =
      before?.ownerId === ownerId &&
      before.info.createdMs === info.createdMs &&
      before.info.version > info.version
    // An answer that was on its way while the corpus changed.
    const known = isOlder ? before : { key, ref, info, ownerId }
    this.#known.delete(key)
    this.#known.set(key, known)
    return known
  }

  forget(key: string): void {
    this.#known.delete(key)
  }

  #reachable(key: string): ReachableCorpus | undefined {
    const known = this.#known.get(key)
    const owner = known && this.#stores().find(({ ref }) => ref.deviceId === known.ownerId)
    return known && owner && { ...known, owner }
  }

  #stores(): RetrievalNode[] {
    return this.#devices.nodes().filter(({ isStore, state }) => isStore && state !== 'lost')
  }

  async #refresh(): Promise<readonly string[]> {
    const stores = this.#devices.nodes().filter(({ isStore }) => isStore)
    const silent = await Promise.all(stores.map((store) => this.#ask(store)))
    // Oldest first, since entries that are confirmed are set anew.
    for (const key of this.#known.keys()) {
      if (this.#known.size <= CORPORA_MAX) break
      this.#known.delete(key)
    }
    return silent.filter((deviceId) => deviceId !== undefined)
  }

  /** Undefined where it answered. */
  async #ask(store: RetrievalNode): Promise<string | undefined> {
    const { deviceId } = store.ref
    if (store.state === 'lost') return deviceId
    try {
      const client = this.#devices.client(store)
      const { corpora } = await callUnary(client, 'list', {}, { timeoutMs: LIST_TIMEOUT_MS })
      const listed = new Set(corpora.map(corpusKey))
      for (const known of this.#known.values()) {
        if (known.ownerId === deviceId && !listed.has(known.key)) this.#known.delete(known.key)
      }
      for (const info of corpora) {
        const { ownerId, info: other } = this.#known.get(corpusKey(info)) ?? {}
        // Two owners with one name, made while one of them was cut off: the older one has it.
        if (ownerId !== deviceId && other && other.createdMs < info.createdMs) continue
        this.update(deviceId, info)
      }
      return undefined
    } catch {
      return deviceId
    }
  }
}

export function ownerMissing({ ref, ownerId }: KnownCorpus, cause?: unknown): UnavailableError {
  return new UnavailableError(
    `The corpus "${ref.name}" is kept by ${ownerId}, which does not answer: start it again, or wait until it is back.`,
    { retryAfterMs: RETRY_AFTER_MS, ids: { deviceId: ownerId }, ...(cause === undefined ? {} : { cause }) },
  )
}

function noStore(): UnavailableError {
  return new UnavailableError('No host agent is here to keep corpora: start one, or wait until it is back.', {
    retryAfterMs: RETRY_AFTER_MS,
  })
}
