/**
 * Serves a Pull of cached blocks: whatever of the leading run is still here, with the same chunks, window and
 * acknowledgements as any transfer.
 */
import { HASH_BYTES } from '@kvasir/engine/text/block-hash'
import {
  PullContent,
  type PullOpen,
  type PullRequest,
  type PullResponse,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import { InvalidInputError, OverloadedError } from '@kvasir/runtime/errors'
import { BLOCK_TOKENS } from './core/block-allocator.js'
import type { Device } from './device.js'
import { OutgoingTransfer } from './outgoing-transfer.js'

export class CachedPulls {
  private serving = 0

  constructor(
    private readonly device: Pick<
      Device,
      'deviceId' | 'holder' | 'pacer' | 'mergeLayers' | 'clock' | 'limits'
    >,
  ) {}

  async serve(
    open: PullOpen,
    incoming: AsyncIterable<PullRequest>,
    send: (message: PullResponse) => Promise<void>,
    signal: AbortSignal,
  ): Promise<void> {
    const { deviceId, holder, pacer, mergeLayers, clock, limits } = this.device
    const wanted = open.cached
    if (wanted === undefined || wanted.hashes.length === 0) throw invalid('names no blocks', 'hashes')
    if (wanted.hashes.some(({ length }) => length !== HASH_BYTES)) {
      throw invalid(`has a hash that is not of ${HASH_BYTES} bytes`, 'hashes')
    }
    // Bounds are not kept with cached blocks everywhere; whoever needs them prepares them.
    const { content = PullContent.KV } = open
    if (content !== PullContent.KV && content !== PullContent.UNSPECIFIED) {
      throw invalid('can be had as keys and values only', 'content')
    }
    if (this.serving >= limits.cachedPullsMax) {
      throw new OverloadedError(
        `Device ${deviceId} already sends cached blocks to ${this.serving} others; compute them instead.`,
        { ids: { deviceId } },
      )
    }
    const loan = holder.lend(wanted)
    this.serving += 1
    let received = false
    try {
      const transfer = new OutgoingTransfer({
        transferId: '',
        shape: loan.shape,
        tokens: loan.blocks * BLOCK_TOKENS,
        cachedBlocks: loan.blocks,
        pacer,
        mergeLayers,
        clock,
        acknowledgeMs: limits.acknowledgeMs,
        opened() {},
        pin: () => loan.read,
        unpin() {},
      })
      transfer.admitted()
      transfer.present(loan.blocks * BLOCK_TOKENS)
      transfer.prefillEnded(0)
      await transfer.serve({ ...open, firstBlock: 0 }, incoming, send, signal)
      received = true
    } finally {
      this.serving -= 1
      loan.giveBack(received)
    }
  }
}

function invalid(what: string, param: string): InvalidInputError {
  return new InvalidInputError(`PullOpen.cached ${what}.`, { param })
}
