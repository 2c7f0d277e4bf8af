/**
 * What an epoch takes of the cluster view: taken when it is placed, given back share
 * by share as its stages end, and what is left with the epoch. Each share is given
 * back at most once.
 */
import type { ClusterView } from './cluster-view.js'
import type { DeviceRef, ModelFacts } from './facts.js'
import { poolBytes } from './kv-blocks.js'
import type { Epoch, Share } from './request.js'

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

  /** Of the model on the device; of one that is gone there is nothing to take. */
  take(
    named: Pick<ModelFacts, 'digest' | 'profile'>,
    epoch: Epoch,
    share: Share,
    device: DeviceRef,
    wish: ShareWish,
  ): void {
    const model = this.#view.model(device, named)
    if (!model) return
    const commitment = {
      slots: wish.slots ?? 0,
      kvBytes: poolBytes(model.facts, wish.kvTokens ?? 0),
      prefillTokens: wish.prefillTokens ?? 0,
    }
    model.take(commitment)
    epoch.shares.set(share, { model, commitment })
  }

  giveBack(epoch: Epoch, share: Share): void {
    const taken = epoch.shares.get(share)
    if (!taken) return
    epoch.shares.delete(share)
    taken.model.giveBack(taken.commitment)
  }

  giveBackAll(epoch: Epoch): void {
    for (const share of [...epoch.shares.keys()]) this.giveBack(epoch, share)
  }
}
