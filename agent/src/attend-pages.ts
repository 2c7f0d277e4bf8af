/**
 * How the pages of an attended sequence come here: what is cached is kept, the rest is pulled from the
 * decoding device while it prefills, and every page has its bounds before the first query.
 */
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { PullContent, PullTiming } from '@kvasir/proto/kvasir/kv/v1/kv'
import type { CheckedOpen } from './attend-open.js'
import { type Device, leaseOf } from './device.js'
import { pullKv } from './incoming-transfer.js'
import { runWriter, shapeOf } from './kv-shape.js'
import type { ServedModel } from './served-model.js'

export interface PageNeeds {
  readonly device: Device
  readonly served: ServedModel
  readonly open: CheckedOpen
  readonly mode: 'partial' | 'indices'
  /** Leading tokens whose KV is in the lease already. */
  readonly cachedTokens: number
  /** Aborts when the sequence ends. */
  readonly signal: AbortSignal
}

export interface HeldPages {
  /** Tokens of all pages. */
  readonly tokens: number
  readonly bytes: number
  readonly cachedPages: number
  readonly prepareUs: number
}

/** Rejects where the source fails or the signal aborts; no write is under way then. */
export async function bringPages(needs: PageNeeds): Promise<HeldPages> {
  const { runner } = needs.served
  const { lease, pages } = needs.open
  const cachedPages = needs.cachedTokens / BLOCK_TOKENS
  runner.apply({ type: 'pin', counter: lease.counter })
  try {
    const blocks = runner.blocks(lease.counter).slice(0, pages)
    const prepareUs = await prepareBounds(needs, blocks.slice(0, cachedPages))
    const bytes = await pullPages(needs, blocks, cachedPages)
    return { tokens: pages * BLOCK_TOKENS, bytes, cachedPages, prepareUs }
  } finally {
    runner.apply({ type: 'unpin', counter: lease.counter })
  }
}

/** Pages that were cached as K and V may have no bounds yet. */
async function prepareBounds({ device, served }: PageNeeds, blocks: readonly number[]): Promise<number> {
  if (blocks.length === 0) return 0
  const startMs = device.clock.nowMs()
  const ids = Uint32Array.from(blocks)
  for (let layer = 0; layer < served.model.layers; layer += 1) await served.driver.readBounds(layer, ids)
  return Math.round((device.clock.nowMs() - startMs) * 1_000)
}

/** The bytes that came. */
async function pullPages(needs: PageNeeds, blocks: readonly number[], firstBlock: number): Promise<number> {
  const { device, served, open, mode, signal } = needs
  const { limits, clock } = device
  const { bytes } = await pullKv({
    client: device.kvClient(open.sourceEndpoint),
    sourceDeviceId: open.sourceDeviceId,
    wanted: {
      transferId: open.transferId,
      timing: PullTiming.LAYERED,
      tokens: open.pages * BLOCK_TOKENS,
      firstBlock,
      content: mode === 'partial' ? PullContent.KV_AND_BOUNDS : PullContent.BOUNDS,
    },
    shape: shapeOf(served),
    lease: leaseOf(device, open.lease.counter),
    windowBytes: limits.windowBytes,
    write: runWriter(served.driver, blocks),
    clock,
    silenceMs: limits.silenceMs,
    signal,
  })
  return bytes
}
