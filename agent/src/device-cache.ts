/**
 * The cached blocks of one model on a device: those in its pool, which the core lends, and those that have just
 * left it and are staged for the host tier (demotion.ts).
 */
import type { LoadReport } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { CachedBlocks } from '@kvasir/proto/kvasir/kv/v1/kv'
import { toDispose } from '@kvasir/runtime/bulk-buffers'
import { NotFoundError } from '@kvasir/runtime/errors'
import type { BlockLoan } from './block-holder.js'
import type { Demotion, StagedBlock } from './demotion.js'
import { hashText } from './kv-index.js'
import { shapeOf } from './kv-shape.js'
import type { Run } from './ready-blocks.js'
import type { ServedModel } from './served-model.js'

/** A block in the device's pool, or staged. */
type Place = number | StagedBlock

export class DeviceCache {
  constructor(
    private readonly deviceId: string,
    private readonly served: ServedModel,
    private readonly demotion: Demotion,
  ) {}

  /** As `BlockHolder.lend`, of blocks of this model. */
  lend({ hashes: wanted }: Pick<CachedBlocks, 'hashes'>): BlockLoan {
    const { deviceId, served, demotion } = this
    const { runner } = served
    const hashes = wanted.map(hashText)
    const answer = runner.apply({ type: 'lend', hashes: hashes.filter((hash) => !demotion.staging(hash)) })
    if (answer?.type !== 'lent') throw new Error('The core did not answer lend')
    const { loan, blocks: lent } = answer
    const places: Place[] = []
    let used = 0
    for (const hash of hashes) {
      const place = demotion.staging(hash) ?? lent[used]
      if (place === undefined) break
      if (typeof place === 'number') used += 1
      places.push(place)
    }
    if (places.length === 0) throw gone(deviceId)
    return {
      shape: shapeOf(served),
      blocks: places.length,
      read: (run) => this.read(run, places.slice(run.first, run.first + run.count)),
      giveBack(received) {
        if (loan !== 0) runner.apply({ type: 'return', loan })
        if (received) demotion.release(hashes.slice(0, places.length))
      },
    }
  }

  evict(drop: boolean): number {
    const answer = this.served.runner.apply({ type: 'evict', drop })
    return answer?.type === 'evicted' ? answer.blocks : 0
  }

  fill(): LoadReport['tiers'] {
    const { runner, toldBlockBytes } = this.served
    const bytes = (blocks: number) => BigInt(Math.round(blocks * toldBlockBytes))
    return runner.load().tiers.map((tier) => {
      const dropped = this.demotion.droppedBlocks(tier.name)
      return {
        name: tier.name,
        leasedBytes: bytes(tier.leasedBlocks),
        capacityBytes: bytes(tier.capacityBlocks),
        cachedBytes: bytes(tier.cachedBlocks),
        counters: {
          lookups: BigInt(tier.lookups),
          hits: BigInt(tier.hits),
          inBytes: bytes(tier.inBlocks),
          // The core counts a block as gone out when it hands it over; what was then dropped went nowhere.
          outBytes: bytes(tier.outBlocks - dropped),
          readBytes: BigInt(Math.round(tier.readBytes)),
          droppedBlocks: BigInt(tier.droppedBlocks + dropped),
        },
      }
    })
  }

  close(): void {
    this.demotion.close()
  }

  private read({ layer }: Run, places: readonly Place[]): Promise<readonly Uint8Array[]> {
    return Promise.all(runsOf(places).map((run) => this.readRun(layer, run)))
  }

  private async readRun(layer: number, run: readonly Place[]): Promise<Uint8Array> {
    const { driver, model } = this.served
    const [first] = run
    if (typeof first !== 'object') {
      return toDispose(await driver.readBlocks(layer, Uint32Array.from(run.filter(isBlock))))
    }
    const data = await first.layers[layer]
    const from = first.place * model.blockLayerBytes
    return data?.subarray(from, from + run.length * model.blockLayerBytes) ?? new Uint8Array(0)
  }
}

/** Blocks of the pool that can be read in one call, and staged ones whose bytes stand one behind the other. */
function runsOf(places: readonly Place[]): Place[][] {
  const runs: Place[][] = []
  for (const place of places) {
    const run = runs.at(-1)
    const last = run?.at(-1)
    if (run !== undefined && last !== undefined && follows(last, place)) run.push(place)
    else runs.push([place])
  }
  return runs
}

function follows(last: Place, next: Place): boolean {
  if (isBlock(last) || isBlock(next)) return isBlock(last) && isBlock(next)
  return last.layers === next.layers && next.place === last.place + 1
}

function isBlock(place: Place): place is number {
  return typeof place === 'number'
}

/** The directory was behind: the first block is held no more. */
export function gone(deviceId: string): NotFoundError {
  return new NotFoundError(`Device ${deviceId} no longer has the blocks; compute them instead.`, {
    ids: { deviceId },
  })
}
