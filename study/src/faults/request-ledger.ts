/**
 * What is true of each request, whoever believes what: what its pages contain, whose KV of it was computed, which tokens
 * were sampled. Content is a name: equal content and all before it, equal name.
 */
import type { VirtualRequest } from '../cluster/request.js'
import { Violation } from './violation.js'

interface Entry {
  readonly request: VirtualRequest
  readonly names: readonly string[]
  /** Tokens 0 … n − 1 were sampled by some device. */
  sampledTokens: number
  /** Epochs whose whole context was prefilled for another device. */
  readonly prefilledEpochs: Set<number>
}

export class RequestLedger {
  readonly #entries = new Map<string, Entry>()

  constructor(requests: readonly VirtualRequest[]) {
    for (const request of requests) {
      const names = request.blocks.map(String)
      const entry = { request, names, sampledTokens: 0, prefilledEpochs: new Set<number>() }
      this.#entries.set(request.requestId, entry)
    }
  }

  request(requestId: string): VirtualRequest {
    return this.#of(requestId).request
  }

  /** What page `page` of the request contains when it is full; what comes after the shared names is its own. */
  pageName(requestId: string, page: number): string {
    return this.#of(requestId).names[page] ?? `${requestId} page ${page}`
  }

  /** Whether a page may be shared, since its content has a name of its own. */
  isNamed(requestId: string, page: number): boolean {
    return page < this.#of(requestId).names.length
  }

  /** A context of so many tokens is the prompt and so many sampled tokens, which must exist. */
  checkContext(requestId: string, contextTokens: number, device: string): void {
    const { request, sampledTokens } = this.#of(requestId)
    const generated = contextTokens - request.promptTokens
    if (generated < 0 || generated > sampledTokens) {
      throw new Violation(
        'I3',
        `${device} is given ${contextTokens} tokens of ${requestId}, whose prompt has ${request.promptTokens} and of which ${sampledTokens} tokens were sampled.`,
        [requestId, device],
      )
    }
  }

  sampled(requestId: string, tokens: number): void {
    const entry = this.#of(requestId)
    entry.sampledTokens = Math.max(entry.sampledTokens, tokens)
  }

  sampledTokens(requestId: string): number {
    return this.#of(requestId).sampledTokens
  }

  prefilled(requestId: string, epoch: number): void {
    this.#of(requestId).prefilledEpochs.add(epoch)
  }

  isPrefilled(requestId: string, epoch: number): boolean {
    return this.#of(requestId).prefilledEpochs.has(epoch)
  }

  #of(requestId: string): Entry {
    const entry = this.#entries.get(requestId)
    if (!entry) throw new Violation('books', `Nobody asked for ${requestId}.`, [requestId])
    return entry
  }
}
