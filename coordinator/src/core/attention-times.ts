/**
 * How long a decode step takes with each way to attend, and nothing else: hundreds of devices are weighed for a
 * request, and the stages of one of them are told.
 *
 * The times are those that planAttention (attention-stages.ts) comes to, term by term: a chain of stages whose
 * devices are given has no choices left.
 */
import type { AttentionPlanner, AttentionWay } from './attention-choice.js'
import { type AttentionBudget, PAGE_TOKENS, pagesOf, pagesWithin } from './attention-plan.js'
import {
  ATTENTION_KERNELS,
  type AttentionSite,
  layerShape,
  layerWork,
  othersTokens,
  PAGE_NUMBER_BYTES,
  queryBytes,
  uploadBytes,
} from './attention-stages.js'
import type { AttentionMethodName } from './attention-wish.js'
import type { CostModel } from './cost-model.js'
import type { DeviceFacts, ModelFacts } from './facts.js'
import type { Work } from './roofline.js'
import type { StageCosts } from './stage-costs.js'
import type { StageName } from './stage-plan.js'

type Works = Record<StageName, Work>

/** A device that could attend, and what the stages take on it. */
interface Attendant {
  readonly device: DeviceFacts
  readonly relevancyMs: number
  readonly retrievalMs: number
  readonly applyMs: number
}

/** What it takes to move a query, what it is answered, and the prompt's pages or their bounds, in one step. */
interface Moves {
  readonly queryMs: number
  readonly answerMs: number
  readonly boundsMs: number
  readonly pagesMs: number
}

interface OneStage {
  readonly works: Works | undefined
  readonly ms: number
}

const NOT_YET: OneStage = { works: undefined, ms: 0 }

/** For one request; the device that decodes changes. */
export class AttentionTimes implements AttentionPlanner<AttentionWay> {
  readonly #contextTokens: number
  #isExplained = false
  readonly #steps: number
  readonly #costs: CostModel
  readonly #stageCosts: StageCosts
  /** By pages read. */
  readonly #works = new Map<number, { readonly model: ModelFacts; readonly works: Works }>()
  readonly #attendantTimes = new Map<
    Works,
    { readonly of: readonly DeviceFacts[]; readonly isScored: boolean; readonly times: readonly Attendant[] }
  >()
  #model: ModelFacts
  #decode: DeviceFacts
  #prefill: DeviceFacts
  #batch = 1
  #attendants: readonly DeviceFacts[] = []
  #leastMs = Number.NaN
  /** By position among those that could attend. */
  #moves: Moves[] = []
  /** The last of each. */
  #prepared: OneStage = NOT_YET
  #applied: OneStage = NOT_YET

  constructor(contextTokens: number, site: Omit<AttentionSite, 'prefill'>) {
    this.#contextTokens = contextTokens
    this.#steps = site.steps
    this.#costs = site.costs
    this.#stageCosts = site.stageCosts
    this.#model = site.model
    this.#decode = site.decode
    this.#prefill = site.decode
  }

  /**
   * Turns to a device. It prefills as well as long as it is not known who does; once that is known, ways that are
   * not worth it are compared, too, since they are told.
   */
  at(
    decode: DeviceFacts,
    model: ModelFacts,
    batch: number,
    attendants: readonly DeviceFacts[],
    prefill?: DeviceFacts,
  ): this {
    this.#decode = decode
    this.#prefill = prefill ?? decode
    this.#isExplained = prefill !== undefined
    this.#model = model
    this.#batch = batch
    this.#attendants = attendants
    this.#leastMs = Number.NaN
    this.#moves = []
    this.#prepared = NOT_YET
    this.#applied = NOT_YET
    return this
  }

  /** No way takes less time. */
  get leastMs(): number {
    if (Number.isNaN(this.#leastMs)) {
      this.#leastMs = this.#stepMs(othersTokens(this.#contextTokens + this.#steps, this.#batch))
    }
    return this.#leastMs
  }

  local(method: AttentionMethodName, budget: AttentionBudget | null): AttentionWay {
    if (method === 'dense') {
      return { stepMs: this.#stepMs(this.#contextTokens + this.#steps), place: 'local', attend: null }
    }
    const decode = this.#decode
    const works = this.#worksOf(budget)
    const applyMs = this.#applyMs(works)
    let ms = 0
    if (method === 'page-bounds') {
      ms = this.#prepareMs(works) + this.#stageMs(decode, 'relevancy', works)
      ms += this.#stageMs(decode, 'retrieval', works)
    }
    return { stepMs: this.leastMs + (ms + applyMs), place: 'local', attend: null }
  }

  remote(
    method: AttentionMethodName,
    budget: AttentionBudget | null,
    places: readonly ('partial' | 'indices')[],
    usefulMs: number,
  ): AttentionWay | undefined {
    const limitMs = this.#isExplained ? Number.POSITIVE_INFINITY : usefulMs
    if (this.leastMs > limitMs) return undefined
    const isScored = method === 'page-bounds' || places.every((place) => place === 'indices')
    const works = this.#worksOf(budget)
    let best: AttentionWay | undefined
    // In the order in which equal ones are taken.
    for (const place of ['indices', 'partial'] as const) {
      if (!places.includes(place)) continue
      const attendants = this.#timesOfAttendants(works, isScored)
      for (const [at, attendant] of attendants.entries()) {
        const { device } = attendant
        const moves = this.#movesOf(at, device)
        const ms = isScored
          ? this.#scoredMs(attendant, moves, place, budget, works)
          : this.#denseMs(attendant, moves)
        const stepMs = this.leastMs + ms
        if (stepMs > limitMs || stepMs >= (best?.stepMs ?? Number.POSITIVE_INFINITY)) continue
        best = { stepMs, place, attend: { deviceId: device.deviceId, incarnation: device.incarnation } }
      }
    }
    return best
  }

  /** Scores and top-k on the other device, attention there or here. */
  #scoredMs(
    { device, relevancyMs, retrievalMs, applyMs }: Attendant,
    { queryMs, answerMs, boundsMs, pagesMs }: Moves,
    place: 'partial' | 'indices',
    budget: AttentionBudget | null,
    works: Works,
  ): number {
    const chosenMs = this.#prepareMs(works) + relevancyMs + (queryMs + boundsMs) + retrievalMs
    if (place === 'partial') return chosenMs + applyMs + (pagesMs + answerMs)
    const { layers } = this.#model
    const bytes = PAGE_NUMBER_BYTES * layers * this.#pagesRead(budget) * layerShape(this.#model).heads
    return chosenMs + this.#applyMs(works) + this.#layersMs(device, this.#decode, bytes)
  }

  /** Attention over all pages on the other device. */
  #denseMs({ applyMs }: Attendant, { queryMs, answerMs, pagesMs }: Moves): number {
    return applyMs + (queryMs + pagesMs + answerMs)
  }

  /** The same for all ways in which this device attends for the one at hand. */
  #movesOf(at: number, device: DeviceFacts): Moves {
    const known = this.#moves[at]
    if (known) return known
    const decode = this.#decode
    const { tokenBytes } = layerShape(this.#model)
    const wordBytes = queryBytes(this.#model)
    const moves = {
      queryMs: this.#layersMs(decode, device, wordBytes),
      answerMs: this.#layersMs(device, decode, wordBytes),
      boundsMs: this.#bulkMs(device, this.#promptPages * tokenBytes),
      pagesMs: this.#bulkMs(device, this.#promptPages * PAGE_TOKENS * tokenBytes),
    }
    this.#moves[at] = moves
    return moves
  }

  /** What the stages take on each of them, which is the same whoever decodes; of scores only where they are needed. */
  #timesOfAttendants(works: Works, isScored: boolean): readonly Attendant[] {
    const known = this.#attendantTimes.get(works)
    if (known && known.of === this.#attendants && known.isScored === isScored) return known.times
    const times = this.#attendants.map((device) => {
      const guess = this.#costs.efficiency(device, this.#model, 'decode')
      return {
        device,
        relevancyMs: isScored ? this.#stageMs(device, 'relevancy', works, guess) : 0,
        retrievalMs: isScored ? this.#stageMs(device, 'retrieval', works, guess) : 0,
        applyMs: this.#stageMs(device, 'apply', works, guess),
      }
    })
    this.#attendantTimes.set(works, { of: this.#attendants, isScored, times })
    return times
  }

  /** On the device that prefills. */
  #prepareMs(works: Works): number {
    if (this.#prepared.works !== works) {
      const ms = this.#stageMs(this.#prefill, 'prepare', works) / this.#steps
      this.#prepared = { works, ms }
    }
    return this.#prepared.ms
  }

  /** On the device that decodes. */
  #applyMs(works: Works): number {
    if (this.#applied.works !== works) {
      this.#applied = { works, ms: this.#stageMs(this.#decode, 'apply', works) }
    }
    return this.#applied.ms
  }

  /** To the attending device, once for all steps. */
  #bulkMs(to: DeviceFacts, layerBytes: number): number {
    const steps = this.#steps
    return (
      this.#costs.transferMs(this.#decode, to, uploadBytes(this.#model, steps, layerBytes) * steps) / steps
    )
  }

  /** Every layer waits for its own. */
  #layersMs(from: DeviceFacts, to: DeviceFacts, bytes: number): number {
    const { layers } = this.#model
    return layers * this.#costs.transferMs(from, to, bytes / layers)
  }

  /** With so many tokens in each sequence of the batch. */
  #stepMs(tokens: number): number {
    return this.#costs.stepMs(this.#decode, this.#model, this.#batch, tokens)
  }

  /** `guess`: the efficiency of a device that such a stage has not run on. */
  #stageMs(
    device: DeviceFacts,
    name: StageName,
    works: Works,
    guess = this.#costs.efficiency(device, this.#model, 'decode'),
  ): number {
    const layerMs = this.#stageCosts.stageMs(device, ATTENTION_KERNELS[name], works[name], guess)
    return this.#model.layers * layerMs
  }

  get #promptPages(): number {
    return Math.floor(this.#contextTokens / PAGE_TOKENS)
  }

  #pagesRead(budget: AttentionBudget | null): number {
    return pagesWithin(budget, pagesOf(this.#contextTokens))
  }

  /** Devices that have the same model mostly tell the same of it. */
  #worksOf(budget: AttentionBudget | null): Works {
    const pagesRead = this.#pagesRead(budget)
    const model = this.#model
    const known = this.#works.get(pagesRead)
    if (known && isAlike(known.model, model)) return known.works
    const works = layerWork(model, pagesOf(this.#contextTokens), pagesRead)
    const { prepare } = works
    const promptPages = this.#promptPages
    const ofPrompt = {
      operations: prepare.operations * promptPages,
      readBytes: prepare.readBytes * promptPages,
    }
    const all = { ...works, prepare: ofPrompt }
    this.#works.set(pagesRead, { model, works: all })
    return all
  }
}

function isAlike(a: ModelFacts, b: ModelFacts): boolean {
  return (
    a.kvBytesPerToken === b.kvBytesPerToken &&
    a.poolBytesPerToken === b.poolBytesPerToken &&
    a.layers === b.layers &&
    a.profile === b.profile
  )
}
