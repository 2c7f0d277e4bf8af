/**
 * What placement is told of a request that waits, and whether waiting may help it.
 */
import type { ClusterView } from './cluster-view.js'
import { type ProfileName, profilesFor } from './facts.js'
import type { PlacementInput } from './placement.js'
import { avoidedNow, mustReplay, type Request } from './request.js'

/** Room for tokens that are still to come is asked for in steps of at most this many. */
const RESERVE_AHEAD_TOKENS = 256

/** `profiles`: to be tried, in order. */
export function placementInput(
  request: Request,
  profiles: readonly ProfileName[],
  isSparseDefault: boolean,
  nowMs: number,
): PlacementInput {
  // What is decoded again is not prefilled, and is room and steps like what is still to come.
  const prefilled = mustReplay(request) ? 0 : request.emitted
  const tokensLeft = request.maxTokens - prefilled
  const prefillTokens = request.promptTokens + prefilled
  return {
    requestId: request.requestId,
    epoch: request.epochs + 1,
    modelDigest: request.modelDigest,
    profiles,
    blockHashes: request.blockHashes,
    prefillTokens,
    reserveTokens: request.promptTokens + Math.min(request.emitted + RESERVE_AHEAD_TOKENS, request.maxTokens),
    tokensLeft,
    attention: {
      wish: request.attention,
      isSparseDefault,
      settled: request.attentionSettled,
      // A stream that has begun is worth more than where it runs.
      isPlaceBinding: !request.hasBegun,
    },
    movedBecause: request.movedBecause,
    avoided: avoidedNow(request, nowMs),
  }
}

/** Whether a device is about to have the model. */
export function isOnItsWay({ profile: asked, modelDigest }: Request, view: ClusterView): boolean {
  const profiles = profilesFor(asked)
  for (const { load } of view.devices()) {
    // Of one that was asked for by name the digest is not known at first.
    const isIt = load?.arriving.some(
      ({ digest, profile }) => profiles.includes(profile) && (digest === '' || digest === modelDigest),
    )
    if (isIt) return true
  }
  return false
}

/** When the wait that goes on began. */
export function waitsSinceMs({ placeByMs }: Request, placementDeadlineMs: number): number {
  return placeByMs - placementDeadlineMs
}
