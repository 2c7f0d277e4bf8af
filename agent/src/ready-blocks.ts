/**
 * Which blocks of a sequence may be sent, and which have been.
 *
 * A block of a layer is computed when the layer has computed all tokens in it that the sequence has, and ready once
 * the other layers of its group have too, or it was released. Runs of ready blocks are taken layer by layer from the
 * lowest, so that the receiver's memory fills in the order in which it was computed; where the bounds of full pages
 * go along, they follow their layer's blocks.
 *
 * Invariant: every wanted (layer, block) and its bounds are taken once, and within a layer in order.
 */
import { BLOCK_TOKENS, blocksForTokens } from './core/block-allocator.js'

/** `count` blocks of one layer, from block `first` of the sequence: their K and V, or their bounds. */
export interface Run {
  readonly layer: number
  readonly first: number
  readonly count: number
  readonly bounds: boolean
}

export interface WantedBlocks {
  readonly layers: number
  readonly tokens: number
  /** Blocks before this one are not wanted. */
  readonly firstBlock: number
  /** Bytes of one block of one layer; 0 where K and V are not wanted. */
  readonly blockBytes: number
  /** Bytes of one page's bounds of one layer; 0 where they are not wanted. */
  readonly boundsBytes: number
  /** Layers of a group: the first so many, the next, … */
  readonly mergeLayers: number
}

/** K and V, or bounds: what was taken of each layer. */
interface Plane {
  readonly bounds: boolean
  readonly unitBytes: number
  /** Blocks there are of each layer. */
  readonly blocks: number
  readonly taken: number[]
}

export class ReadyBlocks {
  private readonly planes: readonly Plane[]
  private readonly done: number[]
  private readonly ready: number[]
  private untaken = 0
  private pending = 0
  private left = 0

  constructor(private readonly wanted: WantedBlocks) {
    const { layers, tokens, firstBlock, blockBytes, boundsBytes } = wanted
    this.done = new Array<number>(layers).fill(firstBlock)
    this.ready = new Array<number>(layers).fill(firstBlock)
    const plane = (bounds: boolean, unitBytes: number, blocks: number): Plane => ({
      bounds,
      unitBytes,
      blocks: Math.max(blocks, firstBlock),
      taken: new Array<number>(layers).fill(firstBlock),
    })
    this.planes = [
      plane(false, blockBytes, blocksForTokens(tokens)),
      plane(true, boundsBytes, Math.floor(tokens / BLOCK_TOKENS)),
    ].filter(({ unitBytes }) => unitBytes > 0)
    for (const { unitBytes, blocks } of this.planes) this.left += layers * (blocks - firstBlock) * unitBytes
  }

  /** Bytes that could be taken now. */
  get pendingBytes(): number {
    return this.pending
  }

  /** Bytes that were computed and not taken. */
  get computedBytes(): number {
    return this.untaken
  }

  /** Whether everything was taken. */
  get exhausted(): boolean {
    return this.left === 0
  }

  /** `layer` has computed the first `tokens` tokens. A repeated or smaller count changes nothing. */
  computed(layer: number, tokens: number): void {
    const before = this.done[layer]
    if (before === undefined) throw new RangeError(`The model has no layer ${layer}`)
    const { tokens: all, mergeLayers } = this.wanted
    const whole = tokens >= all ? blocksForTokens(all) : Math.floor(tokens / BLOCK_TOKENS)
    if (whole <= before) return
    this.done[layer] = whole
    this.untaken += this.bytesBetween(before, whole)
    const first = layer - (layer % mergeLayers)
    const group = this.done.slice(first, first + mergeLayers)
    const together = Math.min(...group)
    for (const place of group.keys()) this.makeReady(first + place, together)
  }

  /** Whatever is computed is ready, whether the rest of its group is or not. */
  release(): void {
    for (const [layer, whole] of this.done.entries()) this.makeReady(layer, whole)
  }

  /**
   * What is ready, at most `bytesMax` bytes, which is at least one block. Where half of it is used up at the
   * end of a group it stops: a chunk of a single run can be handed on without a copy.
   */
  take(bytesMax: number): Run[] {
    const runs: Run[] = []
    let room = bytesMax
    const { layers, mergeLayers } = this.wanted
    for (let layer = 0; layer < layers && room > 0; layer += 1) {
      if (layer % mergeLayers === 0 && 2 * room <= bytesMax) break
      for (const { bounds, unitBytes, blocks, taken } of this.planes) {
        const first = taken[layer] ?? 0
        const ready = Math.min(this.ready[layer] ?? 0, blocks)
        const count = Math.min(ready - first, Math.floor(room / unitBytes))
        if (count <= 0) continue
        runs.push({ layer, first, count, bounds })
        taken[layer] = first + count
        room -= count * unitBytes
      }
    }
    this.untaken -= bytesMax - room
    this.pending -= bytesMax - room
    this.left -= bytesMax - room
    return runs
  }

  private makeReady(layer: number, whole: number): void {
    const before = this.ready[layer] ?? 0
    if (whole <= before) return
    this.ready[layer] = whole
    this.pending += this.bytesBetween(before, whole)
  }

  /** Of one layer's blocks from `before` up to `whole`. */
  private bytesBetween(before: number, whole: number): number {
    return this.planes.reduce(
      (sum, { unitBytes, blocks }) =>
        sum + Math.max(0, Math.min(whole, blocks) - Math.min(before, blocks)) * unitBytes,
      0,
    )
  }
}
