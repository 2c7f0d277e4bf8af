/**
 * Gives requests that wait their place, or finds out why there is none.
 *
 * P1. What was found to have no place is not weighed again before something came free for it or time has passed.
 * P2. A prompt waits in the queue and not on a device where others before it take long, so that what comes later and
 *     is worth more need not wait behind it, and nobody holds a decode slot for nothing.
 */
import type { Admission } from './admission.js'
import { isRemote } from './attention-choice.js'
import { type Decision, FILTER_REASONS, type PassedOver } from './decision.js'
import type { ModelTable } from './device-table.js'
import { type ProfileName, profilesFor } from './facts.js'
import { fitsEmptyDevices, type PlacementView, place } from './placement.js'
import type { Request, Stuck } from './request.js'
import type { RequestBook } from './request-book.js'
import type { RequestLimits } from './request-limits.js'
import { placementInput } from './request-placement.js'
import type { Shedding } from './shedding.js'
import type { Offer } from './wait-queue.js'

const MEMORY = FILTER_REASONS.indexOf('memory')

export class Placing {
  readonly #cluster: PlacementView
  readonly #limits: RequestLimits
  readonly #book: RequestBook
  readonly #admission: Admission
  readonly #shedding: Shedding

  constructor(
    cluster: PlacementView,
    limits: RequestLimits,
    book: RequestBook,
    admission: Admission,
    shedding: Shedding,
  ) {
    this.#cluster = cluster
    this.#limits = limits
    this.#book = book
    this.#admission = admission
    this.#shedding = shedding
  }

  /** `blocked`: models and profiles for which no place is left, in this pass over the queue; it adds to them. */
  offer(request: Request, blocked: Set<string>, isTimeOver: boolean, nowMs: number): Offer {
    if (!request.hasBegun && this.#shedding.missed(request, nowMs)) return 'ended'
    const all = profilesFor(request.profile)
    const keyOf = (profile: ProfileName): string => `${request.modelDigest}/${profile}`
    if (request.stuck && !isTimeOver && request.stuck.freed === this.#freed(request, request.stuck.why)) {
      for (const profile of all) blocked.add(keyOf(profile))
      return 'blocked'
    }
    const profiles = blocked.size === 0 ? all : all.filter((profile) => !blocked.has(keyOf(profile)))
    if (profiles.length === 0) return 'blocked'
    const input = placementInput(request, profiles, this.#limits.attentionDefault !== 'dense', nowMs)
    const outcome = place(input, this.#cluster, this.#limits, nowMs)
    if (outcome.placed) {
      const { decision } = outcome
      if (!request.hasBegun) {
        const aheadMs = this.#aheadMs(decision, request.modelDigest)
        if (this.#shedding.late(request, decision, nowMs)) return 'ended'
        if (this.#admission.isHeld(request.line, aheadMs)) {
          this.#stick(request, 'prompts')
          for (const profile of profiles) blocked.add(keyOf(profile))
          return 'blocked'
        }
        this.#admission.forecast(request.line).placed(request.workTokens, aheadMs, nowMs)
      }
      const tokens = { prompt: input.prefillTokens, reserve: input.reserveTokens }
      this.#book.reserve(request, decision, tokens, nowMs)
      return 'taken'
    }
    // One that avoids certain devices, wants a certain place, or is too large for all says nothing of the others.
    const isPicky = isRemote(request.attention) || input.avoided.size > 0
    let isAlone = true
    for (const profile of isPicky ? [] : profiles) {
      if (!fitsEmptyDevices(input, profile, this.#cluster.view)) continue
      blocked.add(keyOf(profile))
      isAlone = false
    }
    if (isAlone) return 'aside'
    this.#stick(request, lacksMemory(outcome.tried) ? 'room' : 'slots')
    return 'blocked'
  }

  /** Prompts that are before it on the device that prefills, milliseconds as predicted; 0 where none is of this coordinator. */
  #aheadMs({ prefill, profile, ttftMs, prefix }: Decision, modelDigest: string): number {
    const model = this.#cluster.view.model(prefill, { digest: modelDigest, profile })
    // Another coordinator's prompts need never end, and what is fetched would not come sooner by waiting.
    return model && model.own.prefillTokens > 0 ? Math.max(0, ttftMs - prefix.computeMs) : 0
  }

  #stick(request: Request, why: Stuck['why']): void {
    request.stuck = { why, freed: this.#freed(request, why) }
    if (request.waitCause === 'none') request.waitCause = why === 'slots' ? 'room' : why
  }

  /** Grows whenever something comes free that may make a place. */
  #freed({ modelDigest, profile }: Request, why: Stuck['why']): number {
    const { table } = this.#cluster.view
    let freed = table.changes
    for (const name of profilesFor(profile)) {
      const model = table.model({ digest: modelDigest, profile: name })
      if (model) freed += freedOf(model, why)
    }
    return freed
  }
}

function freedOf({ slotsFreed, memoryFreed, turnsFreed }: ModelTable, why: Stuck['why']): number {
  if (why === 'prompts') return turnsFreed
  return why === 'slots' ? slotsFreed : slotsFreed + memoryFreed
}

/** Whether a device would have taken a part if it had more memory free. */
function lacksMemory(tried: readonly PassedOver[]): boolean {
  return tried.some(({ filtered }) => {
    return [filtered.prefill, filtered.decode, filtered.attend].some((counts) => (counts[MEMORY] ?? 0) > 0)
  })
}
