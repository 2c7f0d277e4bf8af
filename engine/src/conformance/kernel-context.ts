/** A pool whose every block of one layer is known, for the cases of the attention kernels. */
import type { LoadedModelFacts, PartialAttention } from '../device-driver.js'
import { dequantiseRows, quantiseRows } from '../kv-format.js'
import { mergePartials } from '../merge-partials.js'
import type { KvFormat } from '../numerics.js'
import { referenceBounds, referencePartial } from '../testing/reference-kernels.js'
import { type ConformanceTarget, type LoadedTarget, loadTarget } from './conformance-case.js'
import { close } from './expectations.js'

export const POOL_BLOCKS = 48
/** Rounding of a sum of some hundred products of numbers around 1. */
export const TOLERANCE = 1e-4

export class KernelContext {
  /** The layer that is written to. */
  readonly layer: number
  /** What each block holds, as the wire rounds it. */
  readonly held: readonly Float32Array[]

  private constructor(
    readonly target: LoadedTarget,
    random: () => number,
  ) {
    const { facts, numerics } = target
    this.layer = Math.min(1, facts.layers - 1)
    const floats = 2 * facts.kvHeads * 16 * facts.headDim
    this.held = Array.from({ length: POOL_BLOCKS }, () =>
      rounded(
        Float32Array.from({ length: floats }, () => random() * 2),
        facts.headDim,
        numerics.wire,
      ),
    )
  }

  static async open(target: ConformanceTarget): Promise<KernelContext> {
    const context = new KernelContext(await loadTarget(target, POOL_BLOCKS), randomNumbers(7))
    await context.write(range(POOL_BLOCKS), context.held)
    return context
  }

  get driver() {
    return this.target.driver
  }

  get facts(): LoadedModelFacts {
    return this.target.facts
  }

  /** `contents`: as `held`, one for each block. */
  write(blocks: Uint32Array, contents: readonly Float32Array[], layer = this.layer): Promise<void> {
    const { facts, numerics } = this.target
    const parts = contents.map((content) => wireBytes(content, facts.headDim, numerics.wire))
    return this.driver.writeBlocks(layer, blocks, new Uint8Array(Buffer.concat(parts)))
  }

  contentsOf(blocks: Uint32Array): Float32Array[] {
    return Array.from(blocks, (block) => this.held[block] ?? new Float32Array(0))
  }

  boundsOf(blocks: Uint32Array): Float32Array[] {
    return this.contentsOf(blocks).map((block) => referenceBounds(this.facts, block))
  }

  queryOf(seed: number): Float32Array {
    const random = randomNumbers(seed)
    return Float32Array.from({ length: this.facts.heads * this.facts.headDim }, () => random() * 2)
  }

  everyHead(blocks: Uint32Array): Uint32Array[] {
    return Array.from({ length: this.facts.kvHeads }, () => blocks)
  }

  attend(q: Float32Array, blocks: readonly Uint32Array[]): Promise<PartialAttention> {
    return this.driver.runKernel('partial-attention', { layer: this.layer, q, blocks })
  }

  /** What `attend` should give. */
  partialOf(q: Float32Array, blocks: readonly Uint32Array[]): PartialAttention {
    return referencePartial(this.facts, q, (head) => this.contentsOf(blocks[head] ?? new Uint32Array(0)))
  }

  merged(...parts: PartialAttention[]): PartialAttention {
    return mergePartials(parts, this.facts.heads, this.facts.headDim)
  }

  closePartial(what: string, got: PartialAttention, expected: PartialAttention): void {
    close(`${what}: output`, got.output, expected.output, TOLERANCE)
    close(`${what}: max`, got.max, expected.max, TOLERANCE)
    const relative = (sum: Float32Array) => sum.map((value, i) => value / Math.max(1, expected.sum[i] ?? 0))
    close(`${what}: sum, relative`, relative(got.sum), relative(expected.sum), TOLERANCE)
  }
}

export function range(count: number): Uint32Array {
  return Uint32Array.from({ length: count }, (_, i) => i)
}

export function joined(parts: readonly Float32Array[]): Float32Array {
  return Float32Array.from(parts.flatMap((part) => [...part]))
}

/** Between −0.5 and 0.5, from a seed. */
export function randomNumbers(seed: number): () => number {
  let state = (seed * 2_654_435_761 + 12_345) >>> 0
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32 - 0.5
  }
}

function quantised(content: Float32Array, headDim: number) {
  const integers = new Int8Array(content.length)
  const scales = new Float32Array(content.length / headDim)
  quantiseRows(content, headDim, integers, scales)
  return { integers, scales }
}

function rounded(content: Float32Array, headDim: number, wire: KvFormat): Float32Array {
  if (wire === 'f32') return content
  const { integers, scales } = quantised(content, headDim)
  const values = new Float32Array(content.length)
  dequantiseRows(integers, scales, headDim, values)
  return values
}

function wireBytes(content: Float32Array, headDim: number, wire: KvFormat): Uint8Array {
  if (wire === 'f32') return new Uint8Array(content.slice().buffer)
  const { integers, scales } = quantised(content, headDim)
  return Buffer.concat([new Uint8Array(integers.buffer), new Uint8Array(scales.buffer)])
}
