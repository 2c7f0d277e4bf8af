/**
 * One run of the fault study as plain data: a small cluster, what is asked of it, and what befalls it when. A run depends
 * on nothing else, so a case replays, and one from which parts were left out is a case again.
 */
import type { PolicySetting } from '@kvasir/coordinator/core/placement-policy'
import type { VirtualRequest } from '../cluster/request.js'

export interface CaseDevice {
  readonly deviceId: string
  readonly kind: 'prefers-prefill' | 'prefers-decode' | 'decodes-only'
  readonly decodeSlots: number
  readonly decodesAtOnce: number
  readonly chunkTokens: number
  /** KV blocks of each of its memories, nearest first. */
  readonly tierBlocks: readonly number[]
  readonly tierPolicy: 'static' | 'reactive' | 'balanced'
  /** Of a prompt token, and of a step that decodes. */
  readonly tokenMs: number
  readonly stepMs: number
  readonly linkBytesPerMs: number
}

export interface CaseCluster {
  readonly blockTokens: number
  readonly mergeLayers: number
  readonly messageMs: number
  /** Steps that only decode run as one event where nothing happens meanwhile. */
  readonly coalesce: boolean
  /** A device that begins anew has the address of its earlier life. */
  readonly fixedAddresses: boolean
  readonly leaseTtlMs: number
  readonly waitingMax: number
  readonly queuedMax: number
  readonly placementDeadlineMs: number
  readonly requestDeadlineMs: number
  readonly policy: PolicySetting
  readonly isAdmissionOn: boolean
  readonly machines: readonly {
    readonly id: string
    /** Blocks in the memory of the host; 0: it keeps none. */
    readonly hostBlocks: number
    readonly devices: readonly CaseDevice[]
  }[]
}

interface During {
  readonly atMs: number
  readonly forMs: number
}

/** What befalls a cluster; each ends by itself. */
export type ClusterFault =
  /** The process dies, and begins anew after `forMs`. */
  | ({ readonly kind: 'crash'; readonly device: string } & During)
  /** It is replaced at once. */
  | ({ readonly kind: 'restart'; readonly device: string } & During)
  | ({ readonly kind: 'stall'; readonly device: string } & During)
  | ({ readonly kind: 'partition'; readonly a: string; readonly b: string } & During)
  /** Nothing passes from a to b; the other way everything does. */
  | ({ readonly kind: 'one-way-partition'; readonly a: string; readonly b: string } & During)
  | ({ readonly kind: 'slow-link'; readonly device: string; readonly factor: number } & During)
  | ({ readonly kind: 'bus-outage' } & During)
  | MessageFault

/** A share of the messages of one device fares badly: which ones follows from `dice`. */
export interface MessageFault extends During {
  readonly kind: /** News about the device: gone, twice, or after what was said later. */
    | 'lost-news'
    | 'doubled-news'
    | 'late-news'
    /** A call from or to it breaks, as it does where a chunk of KV turns out damaged. */
    | 'broken-calls'
    | 'late-calls'
    /** The answer is lost and the call is made again. */
    | 'repeated-calls'
    /** What a call of an epoch that is over said arrives after its end. */
    | 'stale-events'
  readonly device: string
  readonly share: number
  readonly delayMs: number
  readonly dice: number
}

export type FaultKind = ClusterFault['kind']

export const FAULT_KINDS: readonly FaultKind[] = [
  'crash',
  'restart',
  'stall',
  'partition',
  'one-way-partition',
  'slow-link',
  'bus-outage',
  'lost-news',
  'doubled-news',
  'late-news',
  'broken-calls',
  'late-calls',
  'repeated-calls',
  'stale-events',
]

export interface FaultCase {
  readonly seed: number
  readonly cluster: CaseCluster
  /** In order of arrival. */
  readonly requests: readonly VirtualRequest[]
  readonly faults: readonly ClusterFault[]
  /** What comes from then on must be served: everything that befell the cluster is long over. */
  readonly calmFromMs: number
}

export function isMessageFault(fault: ClusterFault): fault is MessageFault {
  return 'dice' in fault
}

/** As a line of a history. */
export function faultText(fault: ClusterFault): string {
  const during = fault.kind === 'restart' ? '' : ` for ${fault.forMs} ms`
  switch (fault.kind) {
    case 'partition':
      return `partition between ${fault.a} and ${fault.b}${during}`
    case 'one-way-partition':
      return `nothing passes from ${fault.a} to ${fault.b}${during}`
    case 'slow-link':
      return `link of ${fault.device} at ${Math.round(fault.factor * 100)} %${during}`
    case 'bus-outage':
      return `bus outage${during}`
    case 'crash':
    case 'restart':
    case 'stall':
      return `${fault.kind} of ${fault.device}${during}`
    default:
      return `${fault.kind} of ${fault.device}, ${Math.round(fault.share * 100)} % of them${during}`
  }
}
