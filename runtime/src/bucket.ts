/**
 * A JetStream key-value bucket whose entries live for a time.
 *
 * Invariants:
 * K1 The bucket is made when it does not exist, and again after the server lost its store.
 * K2 Every operation ends within DEADLINE_MS, at once while the connection is down.
 * K3 A watch goes on through reconnects and a lost store. It starts over with all present
 *    entries then, so a handler sees a value more than once and must not mind.
 *
 * An entry that expires gives no event (nats-server 2.9): who watches must age entries
 * itself, and who advertises puts its entry again within the time and at each reconnect.
 */
import type { JetStreamClient } from '@nats-io/jetstream'
import { type KV, type KvEntry, Kvm } from '@nats-io/kv'
import { delay, withDeadline, withSignal } from './deferred.js'
import { messageOf, UnavailableError } from './errors.js'
import type { Logger } from './log.js'

const DEADLINE_MS = 2_000
/** Pause before a watch that failed begins anew. */
const REWATCH_MS = 250
/** How often a watch makes sure that its bucket is still the one it watches. */
const VERIFY_MS = 2_000
const VALUE_BYTES_MAX = 256 << 10

export interface BucketEntry {
  readonly key: string
  /** Parsed JSON; undefined where the entry was deleted. */
  readonly value: unknown
}

export interface Bucket {
  /** Stores and waits for the server. Throws UnavailableError when it does not answer. */
  put(key: string, value: object): Promise<void>
  /** Deletes; watchers see it. Throws UnavailableError when the server does not answer. */
  delete(key: string): Promise<void>
  /** Calls `handler` with all present entries, then with changes. Returns a function that stops it. */
  watch(handler: (entry: BucketEntry) => void): () => void
  /** The present entries. Throws UnavailableError when the server does not answer. */
  entries(): Promise<BucketEntry[]>
}

export interface BucketOptions {
  readonly jetstream: JetStreamClient
  readonly name: string
  readonly ttlMs: number
  readonly isConnected: () => boolean
  readonly onStatus: (listener: (connected: boolean) => void) => () => void
  readonly log?: Logger
}

export function openBucket(options: BucketOptions): Bucket {
  const { jetstream, name, ttlMs, log } = options
  let opened: Promise<KV> | undefined

  /** The bucket, made if need be. A failure or a reconnect makes the next call look again. */
  const open = (): Promise<KV> => {
    if (opened !== undefined) return opened
    const opening = new Kvm(jetstream).create(name, {
      ttl: ttlMs,
      history: 1,
      maxValueSize: VALUE_BYTES_MAX,
    })
    opened = opening
    opening.catch(() => {
      if (opened === opening) opened = undefined
    })
    return opening
  }
  options.onStatus(() => {
    opened = undefined
  })

  /** Runs one operation within the deadline; where it fails, once more on a bucket looked up anew. */
  const within = async <T>(what: string, operation: (kv: KV) => Promise<T>): Promise<T> => {
    const unavailable = (reason: string, cause?: unknown) =>
      new UnavailableError(`NATS did not ${what} in bucket ${name} (${reason}); try again.`, {
        retryAfterMs: REWATCH_MS,
        cause,
      })
    if (!options.isConnected()) throw unavailable('the connection is down')
    const twice = async () => {
      try {
        return await operation(await open())
      } catch (error) {
        log?.debug({ err: error, bucket: name }, 'bucket operation failed; looking the bucket up again')
        opened = undefined
        return operation(await open())
      }
    }
    try {
      return await withDeadline(twice(), DEADLINE_MS, `waiting for NATS to ${what}`)
    } catch (error) {
      throw unavailable(messageOf(error).replace(/\.$/, ''), error)
    }
  }

  return {
    put: async (key, value) => {
      const text = JSON.stringify(value)
      await within('store an entry', (kv) => kv.put(key, text, { timeout: DEADLINE_MS }))
    },
    delete: (key) => within('delete an entry', (kv) => kv.delete(key)),
    entries: () =>
      within('list the entries', async (kv) => {
        const entries = new Map<string, BucketEntry>()
        for await (const entry of await kv.history()) {
          const read = readEntry(entry, log)
          if (read?.value === undefined) entries.delete(entry.key)
          else entries.set(entry.key, read)
        }
        return [...entries.values()]
      }),
    watch(handler) {
      const stop = new AbortController()
      const forget = () => {
        opened = undefined
      }
      void keepWatching({ ...options, open, forget, handler, stop: stop.signal })
      return () => stop.abort()
    },
  }
}

interface WatchOptions extends BucketOptions {
  readonly open: () => Promise<KV>
  /** Makes the next `open` look the bucket up again. */
  readonly forget: () => void
  readonly handler: (entry: BucketEntry) => void
  readonly stop: AbortSignal
}

async function keepWatching(options: WatchOptions): Promise<void> {
  while (!options.stop.aborted) {
    // Ends this round of watching; a change of the connection does too.
    const round = new AbortController()
    const endRound = () => round.abort()
    options.stop.addEventListener('abort', endRound, { once: true })
    const offStatus = options.onStatus(endRound)
    try {
      if (options.isConnected()) await watchOnce(options, round.signal)
      else await delay(REWATCH_MS, round.signal)
    } catch (error) {
      options.log?.debug({ err: error, bucket: options.name }, 'bucket watch failed; beginning anew')
      options.forget()
      await delay(REWATCH_MS, options.stop)
    } finally {
      offStatus()
      options.stop.removeEventListener('abort', endRound)
      round.abort()
    }
  }
}

/** Watches until the round ends, or until the bucket turns out to be another one. */
async function watchOnce(options: WatchOptions, round: AbortSignal): Promise<void> {
  const kv = await withSignal(options.open(), round)
  const created = await withSignal(createdAt(kv), round)
  const updates = await kv.watch()
  const stopUpdates = () => updates.stop()
  if (round.aborted) stopUpdates()
  round.addEventListener('abort', stopUpdates, { once: true })
  const verifier = setInterval(() => {
    createdAt(kv).then(
      (now) => {
        if (now !== created) stopUpdates()
      },
      () => stopUpdates(),
    )
  }, VERIFY_MS)
  verifier.unref()
  try {
    for await (const entry of updates) {
      const read = readEntry(entry, options.log)
      if (read === undefined) continue
      try {
        options.handler(read)
      } catch (error) {
        options.log?.error({ err: error, bucket: options.name, key: read.key }, 'a bucket handler failed')
      }
    }
  } finally {
    clearInterval(verifier)
    round.removeEventListener('abort', stopUpdates)
  }
  if (!round.aborted) throw new UnavailableError(`The watch of bucket ${options.name} ended by itself.`)
}

/** When the bucket was made: tells a bucket from its successor of the same name. */
async function createdAt(kv: KV): Promise<string> {
  return String((await kv.status()).streamInfo.created)
}

function readEntry(entry: KvEntry, log: Logger | undefined): BucketEntry | undefined {
  if (entry.operation !== 'PUT') return { key: entry.key, value: undefined }
  try {
    return { key: entry.key, value: entry.json() }
  } catch (error) {
    log?.warn({ err: error, key: entry.key }, 'a bucket entry is not JSON; ignored')
    return undefined
  }
}
