/**
 * What distinguishes one kind of device from another. Everything else is shared: what an
 * agent may do follows from its capabilities, and its kind is a word for people.
 */
import type { DeviceDriver } from '@kvasir/engine/device-driver'
import type { Capability, Machine, TierKind } from '@kvasir/proto/kvasir/capability/v1/capability'

export interface DeviceDefinition {
  /** Any word. */
  readonly kind: string
  /** The first is the role the device is best at, which placement prefers. */
  readonly capabilities: readonly Capability[]
  /** Such as "NVIDIA A100"; says so where something stands in for the device. */
  readonly deviceModel: string
  /** The memory that holds KV blocks. */
  readonly tier: { readonly name: string; readonly kind: TierKind }
  /** Sequences decoded at once unless the settings say otherwise; 0 where it cannot decode. */
  readonly decodeSlotsDefault: number
  /** How the device is attached, such as loopback or pcie4-x16. */
  readonly linkClass: string
  /** The machine, where the agent knows more of it than the operating system's basic facts. */
  readonly machine?: Machine
  /** The device itself; absent for an agent that only offers memory. */
  readonly driver?: DriverFactory
}

export interface DriverFactory {
  create(options: { readonly threads?: number }): DeviceDriver
  /** Bytes of one KV block over all layers; asked before a model is loaded, since loading needs the size of the pool. */
  blockBytes(model: string): Promise<number>
}
