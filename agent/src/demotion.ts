/**
 * Hands blocks that leave a device's cache to the host tier of the same machine.
 *
 * Their bytes are read out at once, since the blocks belong to others with the core's next action, and are
 * staged here; their hashes are offered; the host tier pulls those that it wants.
 *
 * Invariants:
 * Q1 Never more than the device has room for is staged, and nothing for longer than `stagingMs`: what does not fit
 *    or is not fetched is dropped and counted, first of what leaves together what left first. Whatever fails costs only the copy.
 * Q2 One Offer is under way at a time; what leaves the cache meanwhile goes with the next one.
 */
import type { OfferRequest } from '@kvasir/proto/kvasir/kv/v1/kv'
import type { Clock } from '@kvasir/runtime/clock'
import { messageOf } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import type { TierPeer } from './host-tier-peer.js'
import { hashBytes, hashText } from './kv-index.js'
import type { AgentLimits } from './limits.js'
import type { DemotingModel } from './served-model.js'

const OFFER_HASHES_MAX = 4_096

export interface DemotionParts {
  readonly deviceId: string
  readonly served: DemotingModel
  /** Shared by all models of the device. */
  readonly room: StagingRoom
  readonly limits: AgentLimits
  readonly clock: Clock
  readonly log: Logger
  /** This device's own KV endpoint; asked for once it listens. */
  readonly kvEndpoint: () => string
  /** The host tier of this machine, where there is one. */
  readonly hostTier: () => TierPeer | undefined
  /** Calls Offer; resolves to the hashes that the host tier will pull now. */
  readonly offer: (peer: TierPeer, offer: OfferRequest) => Promise<readonly Uint8Array[]>
}

/** How much is staged on a device, and how much may be. */
export interface StagingRoom {
  readonly bytesMax: number
  bytesUsed: number
}

/** A block that left its tier. */
export interface DemotedBlock {
  readonly hash: string
  readonly block: number
  readonly tier: string
}

/** Blocks whose bytes were read together, and that go when the last of them does. */
interface Batch {
  readonly bytes: number
  /** Of each layer the blocks' bytes, one behind the other. */
  readonly layers: readonly Promise<Uint8Array>[]
  left: number
  readonly timer: NodeJS.Timeout
}

/** Where one block's bytes are: the `place`-th of its batch. */
export interface StagedBlock {
  readonly layers: readonly Promise<Uint8Array>[]
  readonly place: number
}

export class Demotion {
  private readonly staged = new Map<string, StagedBlock & { readonly batch: Batch; readonly tier: string }>()
  /** Staged and not yet offered, in order. */
  private readonly waiting = new Set<string>()
  private offering = false
  /** After an Offer that failed none is made for a while. */
  private restsUntilMs = 0
  private readonly dropped = new Map<string, number>()

  constructor(private readonly parts: DemotionParts) {}

  /** Issues the reads before it returns. */
  demote(blocks: readonly DemotedBlock[]): void {
    const { room: staging, hostTier, clock } = this.parts
    const fresh = blocks.filter(({ hash }) => !this.staged.has(hash))
    const room = Math.floor((staging.bytesMax - staging.bytesUsed) / this.blockBytes)
    const canOffer = clock.nowMs() >= this.restsUntilMs && hostTier() !== undefined
    // The ends of sequences leave first, and are of no use without what is before them.
    const dropped = canOffer ? Math.max(0, fresh.length - room) : fresh.length
    for (const { tier } of fresh.slice(0, dropped)) this.countDropped(tier)
    const taken = fresh.slice(dropped)
    if (taken.length === 0) return
    this.stage(taken)
    if (!this.offering) void this.offerAll()
  }

  staging(hash: string): StagedBlock | undefined {
    return this.staged.get(hash)
  }

  /** They have been fetched, or need not be. */
  release(hashes: readonly string[]): void {
    for (const hash of hashes) {
      const block = this.staged.get(hash)
      if (block === undefined) continue
      this.staged.delete(hash)
      this.waiting.delete(hash)
      block.batch.left -= 1
      if (block.batch.left > 0) continue
      clearTimeout(block.batch.timer)
      this.parts.room.bytesUsed -= block.batch.bytes
    }
  }

  /** Blocks of this tier that left without a copy elsewhere. */
  droppedBlocks(tier: string): number {
    return this.dropped.get(tier) ?? 0
  }

  close(): void {
    this.release([...this.staged.keys()])
  }

  private stage(blocks: readonly DemotedBlock[]): void {
    const { served, room, limits, log } = this.parts
    const ids = Uint32Array.from(blocks, ({ block }) => block)
    const hashes = blocks.map(({ hash }) => hash)
    const layers = Array.from({ length: served.model.layers }, (_, layer) =>
      served.driver.readBlocks(layer, ids),
    )
    const bytes = blocks.length * this.blockBytes
    // What was released meanwhile may be staged anew, with other blocks.
    const dropRest = () => this.drop(hashes.filter((hash) => this.staged.get(hash)?.batch === batch))
    const timer = setTimeout(dropRest, limits.stagingMs)
    const batch: Batch = { bytes, layers, left: blocks.length, timer }
    for (const [place, { hash, tier }] of blocks.entries()) {
      this.staged.set(hash, { layers, place, batch, tier })
      this.waiting.add(hash)
    }
    room.bytesUsed += bytes
    Promise.all(layers).catch((error: unknown) => {
      log.warn({ err: error }, 'blocks that left the cache could not be read')
      dropRest()
    })
  }

  /** Never rejects. */
  private async offerAll(): Promise<void> {
    const { log, clock, limits } = this.parts
    this.offering = true
    while (this.waiting.size > 0) {
      const hashes = [...this.waiting].slice(0, OFFER_HASHES_MAX)
      for (const hash of hashes) this.waiting.delete(hash)
      try {
        await this.offer(hashes)
      } catch (error) {
        log.warn(`the host tier did not take an offer of ${hashes.length} blocks: ${messageOf(error)}`)
        this.restsUntilMs = clock.nowMs() + limits.offerRestMs
        this.drop(hashes)
      }
    }
    this.offering = false
  }

  private async offer(hashes: readonly string[]): Promise<void> {
    const { deviceId, served, kvEndpoint, hostTier, offer } = this.parts
    const peer = hostTier()
    if (peer === undefined) {
      this.drop(hashes)
      return
    }
    const wanted = await offer(peer, {
      deviceId,
      endpoint: kvEndpoint(),
      modelDigest: served.model.digest,
      variant: served.variant,
      blockLayerBytes: BigInt(served.model.blockLayerBytes),
      hashes: hashes.map(hashBytes),
    })
    const kept = new Set(wanted.map(hashText))
    this.release(hashes.filter((hash) => !kept.has(hash)))
  }

  private drop(hashes: readonly string[]): void {
    for (const hash of hashes) {
      const tier = this.staged.get(hash)?.tier
      if (tier !== undefined) this.countDropped(tier)
    }
    this.release(hashes)
  }

  /** Staged as they are on the wire. */
  private get blockBytes(): number {
    const { layers, blockLayerBytes } = this.parts.served.model
    return layers * blockLayerBytes
  }

  private countDropped(tier: string): void {
    this.dropped.set(tier, this.droppedBlocks(tier) + 1)
  }
}
