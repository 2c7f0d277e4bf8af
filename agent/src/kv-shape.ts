/** The sizes of a model's KV blocks, and how a device's blocks are read for sending. */
import type { DriverModel, LoadedModelFacts } from '@kvasir/engine/device-driver'
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { clearTail, pageBoundsBytes } from '@kvasir/engine/kv-format'
import { type KvVariant, Precision, type Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import { toDispose } from '@kvasir/runtime/bulk-buffers'
import type { KvShape, ReadRun } from './block-holder.js'
import type { Run } from './ready-blocks.js'
import type { ServedModel } from './served-model.js'

/** What tells KV blocks of one model apart: which profile made them, and how they are on the wire. */
export function variantOf({ layers, numerics }: LoadedModelFacts, profile: Profile): KvVariant {
  const dtype = numerics.wire === 'int8' ? Precision.INT8 : Precision.F32
  return { numerics: profile, dtype, layers: { first: 0, count: layers } }
}

export function shapeOf({
  model,
  variant,
  pace,
}: Pick<ServedModel, 'model' | 'variant'> & Partial<Pick<ServedModel, 'pace'>>): KvShape {
  const { digest, layers, blockLayerBytes } = model
  return {
    modelDigest: digest,
    variant,
    layers,
    blockLayerBytes,
    boundsBytes: pageBoundsBytes(model),
    ...(pace === undefined ? {} : { linkFactor: pace.linkFactor(model, variant.numerics) }),
  }
}

/**
 * Reads runs of a sequence from a device. `blocks`: its blocks in order, which stay where they are meanwhile;
 * `tokens`: how many it has, behind which nothing of an earlier owner is shown.
 */
export function runReader(
  { driver, model }: Pick<ServedModel, 'driver' | 'model'>,
  blocks: readonly number[],
  tokens: number,
): ReadRun {
  return async ({ layer, first, count, bounds }) => {
    const ids = Uint32Array.from(blocks.slice(first, first + count))
    if (bounds) return [await driver.readBounds(layer, ids)]
    const data = await driver.readBlocks(layer, ids)
    if ((first + count) * BLOCK_TOKENS > tokens) clearLastBlock(data, model, tokens)
    return [toDispose(data)]
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
function clearLastBlock(run: Uint8Array, model: LoadedModelFacts, tokens: number): void {
  const used = tokens % BLOCK_TOKENS
  if (used === 0) return
  clearTail(run.subarray(run.byteLength - model.blockLayerBytes), model, model.numerics.wire, used)
}
