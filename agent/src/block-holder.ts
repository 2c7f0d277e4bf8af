/**
 * What keeps full KV blocks for reuse and hands them out: a device's own memory (device-cache.ts), or the
 * memory of a machine.
 *
 * Invariants: lent blocks neither change nor go before they are given back; what is lent is the longest
 * leading run of what was asked for, as it is now, whatever a directory said (I6).
 */
import type { KvVariant, LoadReport } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { CachedBlocks, OfferRequest } from '@kvasir/proto/kvasir/kv/v1/kv'
import type { Clock } from '@kvasir/runtime/clock'
import type { KvPullClient } from '@kvasir/runtime/kv-bulk'
import type { Logger } from '@kvasir/runtime/log'
import type { KvIndex } from './kv-index.js'
import type { AgentLimits } from './limits.js'
import type { Run } from './ready-blocks.js'
import type { AgentSettings } from './settings.js'

/** Which model's blocks, and how large they are. */
export interface KvShape {
  readonly modelDigest: string
  readonly variant: KvVariant
  readonly layers: number
  /** Bytes of K and V of one block of one layer, on the wire. */
  readonly blockLayerBytes: number
  /** Bytes of one page's bounds of one layer; 0 where blocks are kept without them. */
  readonly boundsBytes: number
  /** Bytes on the modelled link for each byte that is sent, where the device is paced to one with a larger model. */
  readonly linkFactor?: number
}

/**
 * Issues the reads of a run before it returns. Its bytes, in order, in as many parts as they stand in; nobody
 * changes them. Those that were made for the reader alone are marked so (bulk-buffers.ts).
 */
export type ReadRun = (run: Run) => Promise<readonly Uint8Array[]>

export interface BlockLoan {
  readonly shape: KvShape
  /** At least 1. */
  readonly blocks: number
  readonly read: ReadRun
  /** `received`: whoever asked has all of them. Called once. */
  giveBack(received: boolean): void
}

export interface BlockHolder {
  /** Throws NotFoundError where the first block is not held, UnsupportedError for another variant. */
  lend(wanted: CachedBlocks): BlockLoan
  /** The hashes that it will pull now. Throws UnsupportedError where nothing is taken in. */
  offered(offer: OfferRequest): Promise<string[]>
  /** Gives up what nobody uses; says how many blocks that were. */
  evict(drop: boolean): number
  /** Fill of each tier. */
  fill(): LoadReport['tiers']
  close(): void
}

export interface BlockHolderParts {
  readonly deviceId: string
  readonly incarnation: bigint
  readonly settings: AgentSettings
  readonly index: KvIndex
  readonly limits: AgentLimits
  readonly clock: Clock
  readonly log: Logger
  /** The client for another device's KV endpoint. */
  kvClient(endpoint: string): KvPullClient
}

export type BlockHolderFactory = (parts: BlockHolderParts) => BlockHolder
