/** What the parts of a virtual cluster share. */
import type { AgentCore } from '@kvasir/agent/core/agent-core'
import type { CoreOptions } from '@kvasir/agent/core/core-options'
import type { CoreAction, CoreEvent } from '@kvasir/agent/core/events'
import type { BlockHashes } from '@kvasir/coordinator/core/block-hashes'
import type { CoordinatorCore } from '@kvasir/coordinator/core/coordinator-core'
import type { DeviceFacts, DeviceRef, LoadFacts } from '@kvasir/coordinator/core/facts'
import type { KvChange } from '@kvasir/coordinator/core/kv-follower'
import type { CoordinatorAction, CoordinatorEvent } from '@kvasir/coordinator/core/protocol'
import type { RequestLimits } from '@kvasir/coordinator/core/request-machine'
import type { ClusterPlan } from './cluster-plan.js'
import type { DeviceNews } from './device-news.js'
import type { EventQueue } from './event-queue.js'
import type { Network, Transit } from './network.js'
import type { Party } from './party.js'
import type { RequestOutcome } from './request.js'
import type { SharedLink, SharedLinks } from './shared-links.js'

/** Hears of everything that a core was told and answered, right after it. */
export interface Probe {
  coordinator?(event: CoordinatorEvent, actions: readonly CoordinatorAction[], nowMs: number): void
  agent?(
    deviceId: string,
    incarnation: bigint,
    event: CoreEvent,
    actions: readonly CoreAction[],
    nowMs: number,
  ): void
  /** Tokens reach the client. */
  emit?(requestId: string, from: number, count: number, nowMs: number): void
}

export interface Sample {
  readonly atMs: number
  readonly queued: number
  readonly active: number
  readonly devices: readonly {
    readonly deviceId: string
    readonly slotsUsed: number
    readonly queueTokens: number
    /** Runs a step now. */
    readonly busy: boolean
    readonly tiers: readonly {
      readonly name: string
      readonly leasedBlocks: number
      readonly cachedBlocks: number
      readonly capacityBlocks: number
    }[]
  }[]
}

/** What a virtual cluster needs of a core; a study may plant another one. */
export type AnyCoordinatorCore = Pick<
  CoordinatorCore,
  'step' | 'queuedCount' | 'activeCount' | 'view' | 'directory' | 'follower'
>
export type AnyAgentCore = Pick<AgentCore, 'step' | 'load' | 'blocks' | 'storedHashes'>

export interface ClusterOptions {
  readonly seed: number
  readonly onOutcome: (outcome: RequestOutcome) => void
  /** Of the coordinator's core, where they differ from what a coordinator has by default. */
  readonly limits?: Partial<RequestLimits>
  readonly agentLimits?: { readonly leaseTtlMs?: number; readonly waitingMax?: number }
  /** Steps that only decode run as one event where nothing happens meanwhile; default true. */
  readonly coalesce?: boolean
  readonly transit?: Transit
  /** A device that begins anew listens where its earlier life did, so that calls meant for that reach it; default false. */
  readonly fixedAddresses?: boolean
  readonly makeCoordinator?: (limits: RequestLimits) => AnyCoordinatorCore
  readonly makeAgent?: (options: CoreOptions) => AnyAgentCore
  readonly probe?: Probe
  readonly sample?: { readonly everyMs: number; readonly take: (sample: Sample) => void }
  /** Time that goes on after the last request has ended, so that leases end and news arrive; default 0. */
  readonly lingerMs?: number
}

/** What the coordinator hears of devices over the bus, and who calls it. */
export interface CoordinatorParty extends Party {
  advertised(facts: DeviceFacts): void
  reported(load: LoadFacts): void
  kvChanged(change: KvChange): void
}

export interface Lent {
  /** 0 where there is nothing. */
  readonly loan: number
  readonly count: number
  /** What its bytes pass beside the links between the two devices. */
  readonly through: readonly SharedLink[]
}

export const NOTHING_LENT: Lent = { loan: 0, count: 0, through: [] }

export interface KvSource extends Party {
  readonly ref: DeviceRef
  /** Its side of every path: what leaves it and what comes to it. */
  readonly uplinks: readonly SharedLink[]
  readonly downlinks: readonly SharedLink[]
  readonly machine: string
  readonly latencyMs: number
  /** The longest leading run that it holds, which stays until `giveBack`. */
  lend(names: readonly string[]): Lent
  giveBack(loan: number): void
  /** Cached blocks of so many bytes have left it. */
  sent(bytes: number): void
  snapshotHashes(): BlockHashes
  readonly news: Pick<DeviceNews, 'kvSequence'>
}

export interface World {
  readonly plan: ClusterPlan
  readonly options: ClusterOptions
  readonly queue: EventQueue
  readonly network: Network
  readonly links: SharedLinks
  readonly counters: { coreEvents: number; steps: number; eventsMerged: number }
  coordinator(): CoordinatorParty
  /** The life of a device that runs now; a dead one is still found, until it is restarted. */
  device(deviceId: string): KvSource | undefined
  /** Links from one device to another, latency in milliseconds. */
  path(from: KvSource, to: KvSource): { readonly links: readonly SharedLink[]; readonly latencyMs: number }
}
