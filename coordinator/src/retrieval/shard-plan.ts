/**
 * Decides which device holds which documents of one version of a corpus: all of them on the quickest
 * device with room; cut over several where no device has room for all, so that they take equally long.
 * What no device has room for stays with the corpus' owner, which can search everything.
 *
 * P1. The shards cover the documents from 0 to the last one, in order, none twice.
 * P2. No device holds more than its room, as far as documents are alike; each of its ranges takes as much as it
 *     would take alone.
 * P3. A range stays where it is as long as its device has room for it, unless the corpus would be searched
 *     faster by REBUILD_GAIN, or more of it, or in far fewer ranges, with all ranges placed anew.
 * P4. The same input gives the same plan, and a plan is its own successor: planning again moves nothing.
 */

export interface ShardDevice {
  readonly deviceId: string
  /** Bytes that this corpus may take there. */
  readonly roomBytes: number
  /** Predicted time to search all documents there, above 0. */
  readonly searchMs: number
}

export interface ShardedCorpus {
  readonly documents: number
  /** What one shard of all documents takes. */
  readonly bytes: number
  /** The part of it that goes with its distinct terms. */
  readonly termBytes: number
}

export interface ShardRange {
  readonly firstDocument: number
  readonly documentCount: number
}

export interface PlannedShard extends ShardRange {
  /** Null where only the owner holds it. */
  readonly deviceId: string | null
}

/** Moving ranges that are in use must make a search at least so many times as fast. */
const REBUILD_GAIN = 1.5
/** A plan that devices' coming and going has cut into more ranges than this is made anew. */
const RANGES_PER_DEVICE_MAX = 4

/** `previous`: the plan in force for the same version; empty for a version that is new. */
export function planShards(
  corpus: ShardedCorpus,
  devices: readonly ShardDevice[],
  previous: readonly PlannedShard[],
): readonly PlannedShard[] {
  if (corpus.documents === 0) return []
  const kept = keep(corpus, previous, devices)
  const patched = fill(corpus, kept, devices)
  if (kept.length === 0) return patched
  const fresh = fill(corpus, [], devices)
  if (patched.length > RANGES_PER_DEVICE_MAX * devices.length + 1) return fresh
  const gain = searchMsOf(corpus, patched, devices) / searchMsOf(corpus, fresh, devices)
  const covers = coveredDocuments(fresh) - coveredDocuments(patched)
  return covers > 0 || (covers === 0 && gain >= REBUILD_GAIN) ? fresh : patched
}

/**
 * Whole bytes, which add up exactly, of a shard of so many documents. Distinct words grow about as the square root of the text (Heaps' law,
 * whose exponent is 0.4 to 0.6), so that two halves take more than the whole.
 */
export function shardBytes(corpus: ShardedCorpus, documents: number): number {
  // Multiplied first: of a rounded share the bytes could come out above a whole number, and so one too many.
  const documentBytes = ((corpus.bytes - corpus.termBytes) * documents) / corpus.documents
  return Math.ceil(documentBytes + corpus.termBytes * Math.sqrt(documents / corpus.documents))
}

/** The most documents whose shard takes at most `bytes`. */
function documentsWithin(corpus: ShardedCorpus, bytes: number): number {
  let fits = 0
  let tooMany = corpus.documents + 1
  while (tooMany - fits > 1) {
    const middle = Math.floor((fits + tooMany) / 2)
    if (shardBytes(corpus, middle) <= bytes) fits = middle
    else tooMany = middle
  }
  return fits
}

/** What a device could take on. */
interface Room {
  readonly deviceId: string
  readonly roomBytes: number
  /** Most documents that fit beside what it holds, in one range. */
  readonly documents: number
  readonly msPerDocument: number
  /** Predicted time to search what it holds. */
  readonly busyMs: number
}

type HeldShard = PlannedShard & { readonly deviceId: string }

/** The ranges of the plan in force that can stay, in order. */
function keep(
  corpus: ShardedCorpus,
  previous: readonly PlannedShard[],
  devices: readonly ShardDevice[],
): readonly HeldShard[] {
  const left = new Map(devices.map(({ deviceId, roomBytes }) => [deviceId, roomBytes]))
  return previous.flatMap((shard) => {
    const { deviceId, documentCount } = shard
    if (deviceId === null) return []
    const bytes = (left.get(deviceId) ?? -1) - shardBytes(corpus, documentCount)
    if (bytes < 0) return []
    left.set(deviceId, bytes)
    return { ...shard, deviceId }
  })
}

function roomOf(corpus: ShardedCorpus, device: ShardDevice, kept: readonly HeldShard[]): Room {
  const held = kept.filter(({ deviceId }) => deviceId === device.deviceId)
  const heldBytes = sum(held.map(({ documentCount }) => shardBytes(corpus, documentCount)))
  const roomBytes = device.roomBytes - heldBytes
  const msPerDocument = device.searchMs / corpus.documents
  return {
    deviceId: device.deviceId,
    roomBytes,
    documents: documentsWithin(corpus, roomBytes),
    msPerDocument,
    busyMs: sum(held.map(({ documentCount }) => documentCount)) * msPerDocument,
  }
}

/** Adds to `kept` what is missing, on the devices that have room left, until nothing more finds room. */
function fill(
  corpus: ShardedCorpus,
  kept: readonly HeldShard[],
  devices: readonly ShardDevice[],
): readonly PlannedShard[] {
  const filled = fillOnce(corpus, kept, devices)
  if (coveredDocuments(filled) === coveredDocuments(kept)) return filled
  const held = filled.flatMap(({ deviceId, ...range }) => (deviceId === null ? [] : { deviceId, ...range }))
  return held.length === filled.length ? filled : fill(corpus, held, devices)
}

function fillOnce(
  corpus: ShardedCorpus,
  kept: readonly HeldShard[],
  devices: readonly ShardDevice[],
): readonly PlannedShard[] {
  const gaps = gapsOf(corpus, kept)
  const wanted = sum(gaps.map(({ documentCount }) => documentCount))
  if (wanted === 0) return kept
  const shares = share(
    wanted,
    devices.map((device) => roomOf(corpus, device, kept)),
  )
  const added = gaps.flatMap((gap) => cut(corpus, gap, shares))
  return [...kept, ...added].sort((a, b) => a.firstDocument - b.firstDocument)
}

function gapsOf({ documents }: ShardedCorpus, kept: readonly ShardRange[]): readonly ShardRange[] {
  const gaps: ShardRange[] = []
  let next = 0
  for (const { firstDocument, documentCount } of [...kept, { firstDocument: documents, documentCount: 0 }]) {
    if (firstDocument > next) gaps.push({ firstDocument: next, documentCount: firstDocument - next })
    next = firstDocument + documentCount
  }
  return gaps
}

interface Share {
  readonly deviceId: string
  /** Documents that it is still to take. */
  left: number
  /** Room that it still has; two ranges of documents take more than one. */
  roomBytes: number
}

/** How many documents each device takes of `wanted`; together fewer where there is no room for all. */
function share(wanted: number, free: readonly Room[]): Share[] {
  const withRoom = free
    .filter(({ documents }) => documents > 0)
    .sort((a, b) => doneMs(a, wanted) - doneMs(b, wanted) || (a.deviceId < b.deviceId ? -1 : 1))
  const whole = withRoom.find(({ documents }) => documents >= wanted)
  if (whole) return [{ deviceId: whole.deviceId, left: wanted, roomBytes: whole.roomBytes }]
  const chosen: typeof withRoom = []
  let room = 0
  for (const device of withRoom) {
    if (room >= wanted) break
    chosen.push(device)
    room += device.documents
  }
  return balance(Math.min(wanted, room), chosen)
}

function doneMs(device: Room, documents: number): number {
  return device.busyMs + documents * device.msPerDocument
}

/** Splits documents so that the devices are done at the same time, each within its room. */
function balance(wanted: number, devices: readonly Room[]): Share[] {
  // The time at which all are done, found by halving: what fits by then grows with it.
  const by = (ms: number): number[] =>
    devices.map(({ documents, busyMs, msPerDocument }) =>
      Math.max(0, Math.min(documents, Math.floor((ms - busyMs) / msPerDocument))),
    )
  let lowMs = 0
  let highMs = Math.max(...devices.map((device) => doneMs(device, device.documents))) + 1
  for (let round = 0; round < 60; round++) {
    const middleMs = (lowMs + highMs) / 2
    if (sum(by(middleMs)) >= wanted) highMs = middleMs
    else lowMs = middleMs
  }
  const counts = by(highMs)
  const shares = devices.map(({ deviceId, roomBytes }, at) => ({
    deviceId,
    roomBytes,
    left: counts[at] ?? 0,
  }))
  // At that time a few more may be done.
  let surplus = sum(counts) - wanted
  for (const one of shares.toReversed()) {
    const less = Math.min(surplus, one.left)
    one.left -= less
    surplus -= less
  }
  return shares.filter(({ left }) => left > 0)
}

/** Cuts a range among the shares, which become smaller by it; the owner keeps the rest. */
function cut(corpus: ShardedCorpus, range: ShardRange, shares: readonly Share[]): readonly PlannedShard[] {
  const shards: PlannedShard[] = []
  let { firstDocument, documentCount } = range
  const take = (deviceId: string | null, count: number) => {
    if (count === 0) return
    shards.push({ firstDocument, documentCount: count, deviceId })
    firstDocument += count
    documentCount -= count
  }
  for (const one of shares) {
    const count = Math.min(one.left, documentCount, documentsWithin(corpus, one.roomBytes))
    one.left -= count
    if (count > 0) one.roomBytes -= shardBytes(corpus, count)
    take(one.deviceId, count)
  }
  take(null, documentCount)
  return shards
}

function coveredDocuments(shards: readonly PlannedShard[]): number {
  return sum(shards.map(({ deviceId, documentCount }) => (deviceId === null ? 0 : documentCount)))
}

/** Of the device that is done last, ranges of the owner left out. */
function searchMsOf(
  corpus: ShardedCorpus,
  shards: readonly PlannedShard[],
  devices: readonly ShardDevice[],
): number {
  const msOf = new Map(devices.map(({ deviceId, searchMs }) => [deviceId, searchMs]))
  const busyMs = new Map<string, number>()
  for (const { deviceId, documentCount } of shards) {
    if (deviceId === null) continue
    const ms = ((msOf.get(deviceId) ?? 0) * documentCount) / corpus.documents
    busyMs.set(deviceId, (busyMs.get(deviceId) ?? 0) + ms)
  }
  return Math.max(0, ...busyMs.values())
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}
