/**
 * Which blocks of a prefill may be sent, and which have been.
 *
 * A block of a layer is ready when the layer has computed all tokens in it that the
 * sequence has. Runs of ready blocks are taken layer by layer from the lowest, so that
 * the receiver's memory fills in the order in which it was computed.
 *
 * Invariant: every (layer, block) is taken once, and within a layer in order.
 */
import { BLOCK_TOKENS, blocksForTokens } from './core/block-allocator.js'

/** `count` blocks of one layer, from block `first` of the sequence. */
export interface Run {
  readonly layer: number
  readonly first: number
  readonly count: number
}

export class ReadyBlocks {
  private readonly ready: number[]
  private readonly taken: number[]
  private pending = 0
  private left: number

  constructor(
    private readonly layers: number,
    private readonly tokens: number,
  ) {
    this.ready = new Array<number>(layers).fill(0)
    this.taken = new Array<number>(layers).fill(0)
    this.left = layers * blocksForTokens(tokens)
  }

  /** Blocks (of one layer each) that could be taken now. */
  get pendingBlocks(): number {
    return this.pending
  }

  /** Whether every block was taken. */
  get exhausted(): boolean {
    return this.left === 0
  }

  /** `layer` has computed the first `tokens` tokens. A repeated or smaller count changes nothing. */
  computed(layer: number, tokens: number): void {
    const before = this.ready[layer]
    if (before === undefined) throw new RangeError(`The model has no layer ${layer}`)
    const whole = tokens >= this.tokens ? blocksForTokens(this.tokens) : Math.floor(tokens / BLOCK_TOKENS)
    if (whole <= before) return
    this.ready[layer] = whole
    this.pending += whole - before
  }

  /** At most `blocksMax` blocks that are ready. */
  take(blocksMax: number): Run[] {
    const runs: Run[] = []
    let room = blocksMax
    for (let layer = 0; layer < this.layers && room > 0; layer += 1) {
      const first = this.taken[layer] ?? 0
      const count = Math.min((this.ready[layer] ?? 0) - first, room)
      if (count <= 0) continue
      runs.push({ layer, first, count })
      this.taken[layer] = first + count
      room -= count
    }
    this.pending -= blocksMax - room
    this.left -= blocksMax - room
    return runs
  }
}
