/** The models that a device serves now, found by what callers name: digest and profile, variant, or a lease. */
import type { KvVariant } from '@kvasir/proto/kvasir/capability/v1/capability'
import { Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { LeaseReference } from './core/lease-table.js'
import { variantKey } from './kv-index.js'
import { placeOfLease } from './lease-ranges.js'
import type { ServedModel } from './served-model.js'

export class ServedModels {
  private readonly models: ServedModel[] = []
  private placesTaken = 0

  /** In the order in which they were loaded. */
  get all(): readonly ServedModel[] {
    return this.models
  }

  /** A number that no model of this incarnation has had. */
  nextPlace(): number {
    return this.placesTaken++
  }

  add(model: ServedModel): void {
    this.models.push(model)
  }

  remove(model: ServedModel): void {
    const place = this.models.indexOf(model)
    if (place >= 0) this.models.splice(place, 1)
  }

  /** A caller that names no profile means exact. */
  find(digest: string, profile: Profile): ServedModel | undefined {
    const wanted = profile === Profile.UNSPECIFIED ? Profile.EXACT : profile
    return this.models.find(({ model, profile: own }) => model.digest === digest && own === wanted)
  }

  withBlocksOf(digest: string, variant: KvVariant): ServedModel | undefined {
    const key = variantKey(variant)
    return this.models.find(({ model, variant: own }) => model.digest === digest && variantKey(own) === key)
  }

  /** Of a lease of this device and incarnation. */
  issuerOf({ counter }: LeaseReference): ServedModel | undefined {
    const place = placeOfLease(counter)
    return this.models.find((model) => model.place === place)
  }

  /** Whether a model that is served no more may have issued it. */
  hadIssuerOf({ counter }: LeaseReference): boolean {
    return placeOfLease(counter) < this.placesTaken
  }
}
