/**
 * A process of the virtual cluster as the network sees it: the coordinator, or one life of an agent.
 */
import type { VirtualCall } from './virtual-call.js'

export class Party {
  isDead = false
  /** It handles nothing before then. */
  stalledUntilMs = 0
  /** Its open calls, of either side. */
  readonly calls = new Set<VirtualCall>()

  /** `id`: the device's, or coordinator. */
  constructor(readonly id: string) {}
}
