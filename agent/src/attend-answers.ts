/**
 * Answers the attention queries of one sequence with the device's kernel, and keeps count of what
 * they read.
 *
 * Invariants: queries come in the order of their ids; each is checked before the device sees it; the
 * blocks are asked for anew with each, since tier moves change them between steps.
 */
import type { DriverModel, LoadedModelFacts } from '@kvasir/engine/device-driver'
import type { KernelOutput } from '@kvasir/engine/kernels'
import type { AttendAnswer, AttendQuery } from '@kvasir/proto/kvasir/memory/v1/memory'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { bytesOf, floatsOf } from './attend-bytes.js'
import type { PageUse } from './core/events.js'

export interface AnswerParts {
  readonly driver: Pick<DriverModel, 'runKernel'>
  readonly model: Pick<LoadedModelFacts, 'layers' | 'heads' | 'kvHeads' | 'headDim'>
  /** partial: attention over the chosen pages; indices: their numbers. */
  readonly mode: 'partial' | 'indices'
  readonly pages: number
  /** Where the pages are now. */
  blocks(): readonly number[]
}

/** Sums over the queries answered; pages are counted for each KV head. */
export interface AnswerFigures {
  calls: number
  pages: number
  pagesRead: number
  relevancyUs: number
  retrievalUs: number
  applyUs: number
}

const EMPTY = Buffer.alloc(0)

export class AttendAnswers {
  readonly figures: AnswerFigures = {
    calls: 0,
    pages: 0,
    pagesRead: 0,
    relevancyUs: 0,
    retrievalUs: 0,
    applyUs: 0,
  }
  private lastId = 0n
  /** Of the current step so far. */
  private use: PageUse
  private stepDone = false

  constructor(private readonly parts: AnswerParts) {
    this.use = unused(parts.pages)
  }

  /** Throws InvalidInputError for a query that is not one; rejects with what the device says. */
  async answer(query: AttendQuery): Promise<AttendAnswer> {
    const { driver, mode, pages } = this.parts
    this.check(query)
    const { layer } = query
    const result = await driver.runKernel('choose-pages', {
      layer,
      q: floatsOf(query.q),
      blocks: Uint32Array.from(this.parts.blocks().slice(0, pages)),
      pages: query.pages,
      rivals: floatsOf(query.rivals),
      attend: mode === 'partial',
    })
    this.count(layer, result)
    const { chosen, partial } = result
    return {
      id: query.id,
      chosen: chosen.map(({ length }) => length),
      pages: mode === 'indices' ? Buffer.concat(chosen.map(bytesOf)) : EMPTY,
      output: partial === undefined ? EMPTY : bytesOf(partial.output),
      max: partial === undefined ? EMPTY : bytesOf(partial.max),
      sum: partial === undefined ? EMPTY : bytesOf(partial.sum),
      relevancyUs: Math.round(result.relevancyUs),
      retrievalUs: Math.round(result.retrievalUs),
      applyUs: Math.round(result.applyUs),
    }
  }

  /**
   * What the step whose last layer was answered just now read of each page; undefined after other layers.
   * Weights are of this device's part of the attention alone: what the others' are, only the decoding device knows.
   */
  takeStep(): PageUse | undefined {
    if (!this.stepDone) return undefined
    const { use } = this
    this.use = unused(this.parts.pages)
    this.stepDone = false
    return use
  }

  private check({ id, layer, q, rivals }: AttendQuery): void {
    const { layers, heads, kvHeads, headDim } = this.parts.model
    const queryBytes = heads * headDim * Float32Array.BYTES_PER_ELEMENT
    if (id !== this.lastId + 1n) throw invalid(`id is ${id} instead of ${this.lastId + 1n}.`, 'id')
    if (layer >= layers) throw invalid(`layer is ${layer}, but the model has ${layers}.`, 'layer')
    if (q.length !== queryBytes) throw invalid(`q has ${q.length} bytes instead of ${queryBytes}.`, 'q')
    if (rivals.length % (kvHeads * Float32Array.BYTES_PER_ELEMENT) !== 0) {
      throw invalid(`rivals has ${rivals.length} bytes, not as many scores for each KV head.`, 'rivals')
    }
    this.lastId = id
  }

  private count(layer: number, result: KernelOutput<'choose-pages'>): void {
    const { figures, use } = this
    const { pages, model } = this.parts
    const { reads, mass } = use
    /** What one KV head of one layer counts in a mean over all. */
    const share = 1 / (model.layers * model.kvHeads)
    figures.calls += 1
    figures.relevancyUs += result.relevancyUs
    figures.retrievalUs += result.retrievalUs
    figures.applyUs += result.applyUs
    for (const [head, chosen] of result.chosen.entries()) {
      figures.pages += pages
      figures.pagesRead += chosen.length
      const weights = result.mass?.[head]
      for (const [i, page] of chosen.entries()) {
        reads[page] = (reads[page] ?? 0) + share
        mass[page] = (mass[page] ?? 0) + share * (weights?.[i] ?? 0)
      }
    }
    this.stepDone = layer === model.layers - 1
  }
}

function unused(pages: number): PageUse {
  return { reads: new Float32Array(pages), mass: new Float32Array(pages) }
}

function invalid(sentence: string, field: string): InvalidInputError {
  return new InvalidInputError(`AttendQuery.${sentence}`, { param: field })
}
