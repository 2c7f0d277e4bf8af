/**
 * What follows from the facts of a device alone and every placement asks: worked out once, when it advertises
 * itself.
 */
import { type DeviceFacts, preferredRole, type Role } from './facts.js'
import { peakBytes } from './roofline.js'

/** The kernel that answers attention queries, that of a device which chooses pages itself, and their version. */
const ATTEND_KERNEL = 'choose-pages'
const CHOOSE_KERNEL = 'page-scores'
const KERNEL_VERSION = 1

export interface DeviceTraits {
  /** Which of the two roles it lists first; undefined where it lists neither. */
  readonly prefers: Role | undefined
  readonly canPrefill: boolean
  readonly canDecode: boolean
  readonly canAttend: boolean
  /** Whether the driver knows sparse and remote attention. */
  readonly choosesPages: boolean
  /** Pages over which the driver answers attention queries; 0 where it answers none. */
  readonly attendPagesMax: number
  /** Peak of its memory. */
  readonly bytesPerSecond: number
}

export function traitsOf(facts: DeviceFacts): DeviceTraits {
  const kernels = (wanted: string) =>
    facts.kernels.filter(({ name, version }) => name === wanted && version >= KERNEL_VERSION)
  return {
    prefers: preferredRole(facts),
    canPrefill: facts.capabilities.includes('prefill'),
    canDecode: facts.capabilities.includes('decode'),
    canAttend: facts.capabilities.includes('attend'),
    choosesPages: kernels(CHOOSE_KERNEL).length > 0,
    attendPagesMax: kernels(ATTEND_KERNEL).reduce(
      (most, { limits }) => Math.max(most, limits.pages ?? Number.POSITIVE_INFINITY),
      0,
    ),
    bytesPerSecond: peakBytes(facts.tiers),
  }
}
