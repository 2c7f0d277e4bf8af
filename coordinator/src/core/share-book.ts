/**
 * What an epoch takes of the cluster view: taken when it is placed, given back share
 * by share as its stages end, and what is left with the epoch. Each share is given
 * back at most once.
 */
import type { ClusterView } from './cluster-view.js'
import { type DeviceRef, modelOn } from './facts.js'
import { kvBytes } from './kv-blocks.js'
import type { Epoch, Request, Share } from './request.js'

export interface ShareWish {
  readonly slots?: number
  /** Tokens whose KV is kept, in whole blocks. */
  readonly kvTokens?: number
  readonly prefillTokens?: number
}

export class ShareBook {
  readonly #view: ClusterView

  constructor(view: ClusterView) {
    this.#view = view
  }

  take(request: Request, epoch: Epoch, share: Share, device: DeviceRef, wish: ShareWish): void {
    const facts = this.#view.device(device.deviceId)?.facts
    const model = facts && modelOn(facts, request.modelDigest, request.profile)
    const commitment = {
      slots: wish.slots ?? 0,
      kvBytes: model ? kvBytes(model, wish.kvTokens ?? 0) : 0,
      prefillTokens: wish.prefillTokens ?? 0,
    }
    this.#view.commit(device, commitment)
    epoch.shares.set(share, { device, commitment })
  }

  giveBack(epoch: Epoch, share: Share): void {
    const taken = epoch.shares.get(share)
    if (!taken) return
    epoch.shares.delete(share)
    this.#view.uncommit(taken.device, taken.commitment)
  }

  giveBackAll(epoch: Epoch): void {
    for (const share of [...epoch.shares.keys()]) this.giveBack(epoch, share)
  }
}
