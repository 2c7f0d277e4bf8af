/** One life of a device as the checker models it: its leases, its sequences, the step that runs, what its blocks hold. */
import type { CoreOptions } from '@kvasir/agent/core/core-options'
import type { CoreAction, CoreEvent, StepPart } from '@kvasir/agent/core/events'
import type { AnyAgentCore } from '../cluster/world.js'
import { BlockContents } from './block-contents.js'
import { HeldBlocks, type Holding } from './held-blocks.js'
import type { RequestLedger } from './request-ledger.js'
import { type RuleName, Violation } from './violation.js'

export type AgentEvent<Type extends CoreEvent['type']> = Extract<CoreEvent, { type: Type }>
export type AgentAction<Type extends CoreAction['type']> = Extract<CoreAction, { type: Type }>

export interface ModelLease extends Holding {
  readonly counter: bigint
  readonly role: 'prefill' | 'decode' | 'attend'
  readonly issuedMs: number
  /** Undefined: nobody uses it yet. */
  sequence: number | undefined
}

export interface ModelSequence {
  readonly id: number
  readonly role: 'prefill' | 'decode'
  readonly requestId: string
  readonly epoch: number
  readonly promptTokens: number
  readonly fetchTokens: number
  /** Index of the first token that it samples. */
  readonly firstIndex: number
  lease: ModelLease | undefined
  phase: 'waiting' | 'fetching' | 'prefilling' | 'computed' | 'receiving' | 'decoding'
  computedTokens: number
  sampledTokens: number
}

export class DeviceModel {
  readonly deviceId: string
  readonly incarnation: bigint
  readonly blockTokens: number
  readonly contents: BlockContents
  readonly held: HeldBlocks
  readonly leases = new Map<bigint, ModelLease>()
  readonly sequences = new Map<number, ModelSequence>()
  /** Hashes of full blocks, as the core told of them. */
  readonly stored = new Set<string>()
  /** The newest lease that it issued. */
  lastCounter = 0n
  running: readonly { readonly part: StepPart; readonly lease: ModelLease }[] | undefined

  constructor(
    readonly options: CoreOptions,
    readonly core: AnyAgentCore,
    readonly ledger: RequestLedger,
  ) {
    this.deviceId = options.deviceId
    this.incarnation = options.incarnation
    this.blockTokens = options.blockTokens ?? 16
    this.contents = new BlockContents(options.tiers.reduce((sum, { blocks }) => sum + blocks, 0))
    this.held = new HeldBlocks(this.deviceId, this.contents, this.blockTokens, ledger)
  }

  /** What the core says that living leases hold now. */
  recount(): void {
    for (const lease of this.leases.values()) lease.blocks = this.blocksOf(lease.counter)
    this.held.recount()
  }

  blocksOf(counter: bigint): readonly number[] {
    try {
      return [...this.core.blocks(counter)]
    } catch {
      // Ended with the same event.
      return this.leases.get(counter)?.blocks ?? []
    }
  }

  /** Its lease goes on to hold its blocks while the step runs, also where it ends. */
  isInStep(lease: Holding): boolean {
    return this.running?.some((row) => row.lease === lease) === true
  }

  fail(rule: RuleName, what: string, requestId?: string): void {
    const about = requestId === undefined ? [this.deviceId] : [this.deviceId, requestId]
    throw new Violation(rule, `${this.deviceId} ${what}.`, about)
  }
}
