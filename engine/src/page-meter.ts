/** What a sequence's attention reads in one step, page by page, summed up over layers and KV heads. */
import type { AttentionUse, RemoteAnswer } from './device-driver.js'
import type { PagePlan } from './page-plan.js'

export class PageMeter {
  readonly #plan: PagePlan
  readonly #reads: Float64Array
  readonly #mass: Float64Array
  #heads = 0
  #pagesRead = 0
  #times = { prepareUs: 0, relevancyUs: 0, retrievalUs: 0, applyUs: 0, remoteUs: 0 }
  #wireBytes = 0

  /** `blocks`: how many the sequence has on this device. */
  constructor(plan: PagePlan, blocks: number) {
    this.#plan = plan
    this.#reads = new Float64Array(blocks)
    this.#mass = new Float64Array(blocks)
  }

  /** Milliseconds that a stage took. */
  add(stage: 'prepare' | 'relevancy' | 'retrieval' | 'apply' | 'remote', ms: number): void {
    this.#times[`${stage}Us`] += ms * 1_000
  }

  /** One KV head in one layer read these pages of the sequence's blocks, with these weights. */
  addHead(pages: ArrayLike<number>, mass: ArrayLike<number>): void {
    this.#heads++
    this.#pagesRead += pages.length
    for (let i = 0; i < pages.length; i++) {
      const page = pages[i] ?? 0
      this.#reads[page] = (this.#reads[page] ?? 0) + 1
      this.#mass[page] = (this.#mass[page] ?? 0) + (mass[i] ?? 0)
    }
  }

  /** `isApplied`: the other device attended, so its pages count as read there. */
  addAnswer(answer: RemoteAnswer, isApplied: boolean): void {
    this.#times.relevancyUs += answer.relevancyUs
    this.#times.retrievalUs += answer.retrievalUs
    this.#times.applyUs += answer.applyUs
    this.#wireBytes += answer.wireBytes
    if (isApplied) this.#pagesRead += answer.chosen.reduce((sum, count) => sum + count, 0)
  }

  use(): AttentionUse {
    const share = (values: Float64Array) =>
      Float32Array.from(values, (value) => value / Math.max(1, this.#heads))
    return {
      reads: share(this.#reads),
      mass: share(this.#mass),
      pages: this.#plan.pages * this.#heads,
      pagesRead: this.#pagesRead,
      prepareUs: Math.round(this.#times.prepareUs),
      relevancyUs: Math.round(this.#times.relevancyUs),
      retrievalUs: Math.round(this.#times.retrievalUs),
      applyUs: Math.round(this.#times.applyUs),
      remoteUs: Math.round(this.#times.remoteUs),
      wireBytes: this.#wireBytes,
    }
  }
}
