/** The sizes of a model's KV blocks, and how a device's blocks are read for sending. */
import type { DriverModel, LoadedModelFacts } from '@kvasir/engine/device-driver'
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { type KvVariant, Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { KvShape, ReadRun } from './block-holder.js'
import type { LoadedDevice } from './device.js'
import type { Run } from './ready-blocks.js'

export function exactVariant(layers: number): KvVariant {
  return { numerics: Profile.EXACT, dtype: 'PRECISION_F32', layers: { first: 0, count: layers } }
}

export function shapeOf({ model, variant }: Pick<LoadedDevice, 'model' | 'variant'>): KvShape {
  const { digest, layers, blockLayerBytes } = model
  return { modelDigest: digest, variant, layers, blockLayerBytes }
}

/** Bytes of one page's bounds of one layer: `[kv head][min|max][head dim]` beside K and V of `[kv head][token][head dim]`. */
export function boundsBytesOf({ blockLayerBytes }: KvShape): number {
  return blockLayerBytes / BLOCK_TOKENS
}

/**
 * Reads runs of a sequence from a device. `blocks`: its blocks in order, which stay where they are meanwhile;
 * `tokens`: how many it has, behind which nothing of an earlier owner is shown.
 */
export function runReader(
  { driver, model }: Pick<LoadedDevice, 'driver' | 'model'>,
  blocks: readonly number[],
  tokens: number,
): ReadRun {
  return async ({ layer, first, count, bounds }) => {
    const ids = Uint32Array.from(blocks.slice(first, first + count))
    if (bounds) return [await driver.readBounds(layer, ids)]
    const data = await driver.readBlocks(layer, ids)
    if ((first + count) * BLOCK_TOKENS > tokens) zeroTail(data, model, tokens)
    return [data]
  }
}

/** Writes runs of a sequence to a device. */
export function runWriter(
  driver: DriverModel,
  blocks: readonly number[],
): (run: Run, data: Uint8Array, owned: boolean) => Promise<void> {
  return ({ layer, first, count, bounds }, data, owned) => {
    const ids = Uint32Array.from(blocks.slice(first, first + count))
    return bounds ? driver.writeBounds(layer, ids, data) : driver.writeBlocks(layer, ids, data, owned)
  }
}

/** Clears what an earlier owner left behind the last token of a sequence's last block. */
function zeroTail(
  run: Uint8Array,
  { kvHeads, headDim, blockLayerBytes }: LoadedModelFacts,
  tokens: number,
): void {
  const used = tokens % BLOCK_TOKENS
  if (used === 0) return
  const block = run.subarray(run.byteLength - blockLayerBytes)
  // [K|V][kv head][token][head dim], f32
  const tokenBytes = headDim * Float32Array.BYTES_PER_ELEMENT
  for (let head = 0; head < 2 * kvHeads; head += 1) {
    const start = head * BLOCK_TOKENS * tokenBytes
    block.fill(0, start + used * tokenBytes, start + BLOCK_TOKENS * tokenBytes)
  }
}
