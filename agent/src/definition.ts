/**
 * What distinguishes one kind of device from another. Everything else is shared: what an
 * agent may do follows from its capabilities, and its kind is a word for people.
 */
import type { DeviceDriver } from '@kvasir/engine/device-driver'
import type { ComputeOptions } from '@kvasir/engine/ort-session'
import type { Capability, Machine, TierKind } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { BlockHolderFactory } from './block-holder.js'
import type { DeviceServiceFactory } from './services.js'

export interface DeviceDefinition {
  /** Any word. */
  readonly kind: string
  /** The first is the role the device is best at, which placement prefers. */
  readonly capabilities: readonly Capability[]
  /** Such as "NVIDIA A100"; says so where something stands in for the device. */
  readonly deviceModel: string
  /** The memories that hold KV blocks, nearest first; at least one. */
  readonly tiers: readonly [TierDefinition, ...TierDefinition[]]
  /**
   * What profile paper means on it: float is f32 with KV sent in 8 bits, quantised is weights in 4 bits, activations
   * and KV in 8. float where absent.
   */
  readonly paperNumerics?: 'float' | 'quantised'
  /** Sequences of each model decoded at once unless the settings say otherwise; 0 where it cannot decode. */
  readonly decodeSlotsDefault: number
  /** How the device is attached, such as loopback or pcie4-x16. */
  readonly linkClass: string
  /** The machine, where the agent knows more of it than the operating system's basic facts. */
  readonly machine?: Machine
  /** The device itself; absent for an agent that only offers memory. */
  readonly driver?: DriverFactory
  /** Keeps the blocks of an agent that has no device. */
  readonly memory?: BlockHolderFactory
  /** What else it serves, such as attention or corpora. */
  readonly services?: readonly DeviceServiceFactory[]
}

export interface TierDefinition {
  readonly name: string
  readonly kind: TierKind
  /** Which setting says how large it is. */
  readonly bytes: 'tierBytes' | 'ddrBytes'
  /**
   * Bandwidth as a share of the first tier's measured one; 1 where absent. Where one memory stands in for
   * several, this is a published ratio, and the tier is advertised as modelled.
   */
  readonly bandwidthShare?: number
}

export interface DriverFactory {
  /** Resolves when the device answers. */
  create(options: ComputeOptions): Promise<DeviceDriver>
}
