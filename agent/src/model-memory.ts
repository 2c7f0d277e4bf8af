/**
 * The memory of a device that models may take, weights and KV pools together: who has how much of it.
 *
 * Invariant: what is taken never exceeds the limit; what does not fit is refused before anything is loaded.
 */
import type { WeightFormat } from '@kvasir/engine/numerics'
import { OverloadedError } from '@kvasir/runtime/errors'
import { sizeText } from '@kvasir/runtime/size-text'

const WEIGHTS = { f32: 'f32', int4: '4 bits' } as const

export interface ModelNeed {
  readonly name: string
  readonly weights: WeightFormat
  readonly weightBytes: number
  /** 0 where it is not known yet. */
  readonly poolBytes: number
}

/** A model's part of the memory. */
export interface MemoryShare {
  readonly bytes: number
  /** Nothing happens the second time. */
  free(): void
}

export class ModelMemory {
  private used = 0

  constructor(
    private readonly deviceId: string,
    readonly limitBytes: number,
  ) {}

  get usedBytes(): number {
    return this.used
  }

  /** Throws OverloadedError, which says how much is lacking. */
  take(need: ModelNeed): MemoryShare {
    const bytes = need.weightBytes + need.poolBytes
    const freeBytes = this.limitBytes - this.used
    if (bytes > freeBytes) throw this.refusal(need, bytes, freeBytes)
    this.used += bytes
    let isFree = false
    return {
      bytes,
      free: () => {
        if (!isFree) this.used -= bytes
        isFree = true
      },
    }
  }

  private refusal(need: ModelNeed, bytes: number, freeBytes: number): OverloadedError {
    const { deviceId, limitBytes } = this
    const { name, weights, weightBytes, poolBytes } = need
    const pool = poolBytes === 0 ? '' : ` and ${sizeText(poolBytes)} for KV`
    const free = this.used === 0 ? '' : `, of which ${sizeText(Math.max(0, freeBytes))} are free`
    const remedy = this.used === 0 ? '' : 'unload another model, '
    return new OverloadedError(
      `The model ${name} needs ${sizeText(bytes)} on device ${deviceId}: ${sizeText(weightBytes)} for weights in ${WEIGHTS[weights]}${pool}. Models may take ${sizeText(limitBytes)} there${free}, so ${sizeText(bytes - freeBytes)} are lacking; ${remedy}choose a smaller model, give its KV fewer bytes, or raise modelBytes where the machine has more.`,
      { param: 'modelBytes', ids: { deviceId } },
    )
  }
}
