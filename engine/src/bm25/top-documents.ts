/**
 * The k best documents of any number, in a heap of k with the worst on top.
 *
 * Invariant: of two equal scores the smaller document number is better, so the outcome does not depend
 * on the order in which documents are offered.
 */
import { UNSCORED } from './bm25.js'

export class TopDocuments {
  private readonly documents: Uint32Array
  private readonly scores: Float64Array
  private size = 0

  constructor(k: number) {
    this.documents = new Uint32Array(k)
    this.scores = new Float64Array(k)
  }

  /** Takes the scores of consecutive documents; UNSCORED ones are passed over. */
  offerAll(firstDocument: number, scores: Float64Array): void {
    for (let index = 0; index < scores.length; index += 1) {
      const score = scores[index] ?? UNSCORED
      if (score !== UNSCORED) this.offer(firstDocument + index, score)
    }
  }

  offer(document: number, score: number): void {
    if (this.size < this.scores.length) {
      this.set(this.size, document, score)
      this.size += 1
      this.up(this.size - 1)
    } else if (this.size > 0 && isBetter(score, document, this.scores[0] ?? 0, this.documents[0] ?? 0)) {
      this.set(0, document, score)
      this.down(0, this.size)
    }
  }

  /** Best first. Empties this. */
  ranked(): { documents: Uint32Array; scores: Float64Array } {
    const count = this.size
    // The worst goes to the end, again and again.
    for (let rest = count - 1; rest > 0; rest -= 1) {
      this.swap(0, rest)
      this.down(0, rest)
    }
    this.size = 0
    return { documents: this.documents.slice(0, count), scores: this.scores.slice(0, count) }
  }

  private up(from: number): void {
    let at = from
    while (at > 0) {
      const parent = (at - 1) >>> 1
      if (!this.better(parent, at)) return
      this.swap(parent, at)
      at = parent
    }
  }

  private down(from: number, size: number): void {
    let at = from
    for (;;) {
      const left = 2 * at + 1
      if (left >= size) return
      const right = left + 1
      const worse = right < size && this.better(left, right) ? right : left
      if (!this.better(at, worse)) return
      this.swap(at, worse)
      at = worse
    }
  }

  private better(a: number, b: number): boolean {
    const { scores, documents } = this
    return isBetter(scores[a] ?? 0, documents[a] ?? 0, scores[b] ?? 0, documents[b] ?? 0)
  }

  private swap(a: number, b: number): void {
    const document = this.documents[a] ?? 0
    const score = this.scores[a] ?? 0
    this.set(a, this.documents[b] ?? 0, this.scores[b] ?? 0)
    this.set(b, document, score)
  }

  private set(at: number, document: number, score: number): void {
    this.documents[at] = document
    this.scores[at] = score
  }
}

function isBetter(score: number, document: number, otherScore: number, otherDocument: number): boolean {
  return score > otherScore || (score === otherScore && document < otherDocument)
}
