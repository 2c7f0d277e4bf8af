/**
 * What placement is told of a request that waits, and whether waiting may help it.
 */
import type { ClusterView } from './cluster-view.js'
import { type ProfileName, profilesFor } from './facts.js'
import { fitsEmptyDevices, type PlacementInput } from './placement.js'
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
    reserveTokens: reservedTokens(request),
    tokensLeft,
    attention: {
      wish: request.attention,
      isSparseDefault,
      settled: request.attentionSettled,
      // A stream that has begun is worth more than where it runs.
      isPlaceBinding: !request.hasBegun,
    },
    movedBecause: request.movedBecause,
    turn: request.arrival,
    avoided: avoidedNow(request, nowMs),
  }
}

/**
 * Whether no waiting may help, which a placement then tells; false at little cost where devices are large enough,
 * when they hold nothing else, for a request that wants no certain attention.
 */
export function mayBeHopeless(request: Request, view: ClusterView): boolean {
  if (request.attention !== undefined || mustReplay(request)) return true
  const input = {
    modelDigest: request.modelDigest,
    prefillTokens: request.promptTokens + request.emitted,
    reserveTokens: reservedTokens(request),
  }
  return !profilesFor(request.profile).some((profile) => fitsEmptyDevices(input, profile, view))
}

function reservedTokens({ promptTokens, emitted, maxTokens }: Request): number {
  return promptTokens + Math.min(emitted + RESERVE_AHEAD_TOKENS, maxTokens)
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
