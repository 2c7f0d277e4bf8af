/** The cached blocks of all models that a device serves, as one holder. */
import type { LoadReport } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { CachedBlocks } from '@kvasir/proto/kvasir/kv/v1/kv'
import { UnsupportedError } from '@kvasir/runtime/errors'
import type { BlockHolder, BlockLoan } from './block-holder.js'
import type { ServedModels } from './served-models.js'

type TierFill = LoadReport['tiers'][number]
type TierCounters = NonNullable<TierFill['counters']>

export class DeviceBlocks implements BlockHolder {
  constructor(
    private readonly deviceId: string,
    private readonly models: ServedModels,
  ) {}

  lend(wanted: CachedBlocks): BlockLoan {
    const { modelDigest, variant } = wanted
    const served = variant === undefined ? undefined : this.models.withBlocksOf(modelDigest, variant)
    if (served !== undefined) return served.cache.lend(wanted)
    throw new UnsupportedError(
      `Device ${this.deviceId} has no KV blocks of this model and variant; ask one whose advertisement names them.`,
      { ids: { deviceId: this.deviceId } },
    )
  }

  async offered(): Promise<never> {
    throw new UnsupportedError(
      `Device ${this.deviceId} takes no blocks in; offer them to one whose capabilities say KV_TIER.`,
      { ids: { deviceId: this.deviceId } },
    )
  }

  evict(drop: boolean): number {
    return this.models.all.reduce((blocks, { cache }) => blocks + cache.evict(drop), 0)
  }

  fill(): LoadReport['tiers'] {
    return summedFill(this.models.all.map(({ cache }) => cache.fill()))
  }

  close(): void {
    for (const { cache } of this.models.all) cache.close()
  }
}

/** Tiers of one name together, in the order in which they are first seen. */
function summedFill(fills: readonly LoadReport['tiers'][]): LoadReport['tiers'] {
  const sums = new Map<string, TierFill>()
  for (const tier of fills.flat()) {
    const sum = sums.get(tier.name)
    sums.set(tier.name, sum === undefined ? tier : addFill(sum, tier))
  }
  return [...sums.values()]
}

function addFill(a: TierFill, b: TierFill): TierFill {
  return {
    name: a.name,
    leasedBytes: a.leasedBytes + b.leasedBytes,
    capacityBytes: a.capacityBytes + b.capacityBytes,
    cachedBytes: (a.cachedBytes ?? 0n) + (b.cachedBytes ?? 0n),
    counters: addCounters(a.counters, b.counters),
  }
}

function addCounters(a: TierCounters | undefined, b: TierCounters | undefined): TierCounters | undefined {
  if (a === undefined || b === undefined) return a ?? b
  return {
    lookups: a.lookups + b.lookups,
    hits: a.hits + b.hits,
    inBytes: a.inBytes + b.inBytes,
    outBytes: a.outBytes + b.outBytes,
    readBytes: a.readBytes + b.readBytes,
    droppedBlocks: a.droppedBlocks + b.droppedBlocks,
  }
}
