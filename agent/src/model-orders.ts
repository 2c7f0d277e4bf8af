/** Orders over NATS to load and to unload models, checked. */
import { type LoadModel, Profile, type UnloadModel } from '@kvasir/proto/kvasir/capability/v1/capability'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { WantedModel } from './model-arrival.js'
import type { UnwantedModel } from './model-loads.js'

/** Whoever serves the model has advertised it within this time. */
const PEERS_MS = 3_500
/** A day: nothing runs for longer, and a timer of more than 24 days would end at once. */
const DEADLINE_MS_MAX = 86_400_000

export function loadOrder({ model, digest, profile, kvBytes }: LoadModel): WantedModel {
  if (model === '') throw new InvalidInputError('LoadModel.model is missing; set it.', { param: 'model' })
  if (digest !== '') checkDigest(digest, 'LoadModel')
  return {
    model,
    digest,
    profile: profileOf(profile),
    kvBytes: kvBytes === 0n ? undefined : Number(kvBytes),
    peersMs: PEERS_MS,
  }
}

export function unloadOrder({ digest, profile, deadlineMs }: UnloadModel): UnwantedModel {
  checkDigest(digest, 'UnloadModel')
  return { digest, profile: profileOf(profile), deadlineMs: Math.min(deadlineMs, DEADLINE_MS_MAX) }
}

function profileOf(profile: Profile): Profile {
  return profile === Profile.UNSPECIFIED ? Profile.EXACT : profile
}

function checkDigest(digest: string, message: string): void {
  if (/^[0-9a-f]{64}$/.test(digest)) return
  throw new InvalidInputError(
    `${message}.digest is not a SHA-256 in hexadecimal; take it from the advertisement.`,
    {
      param: 'digest',
    },
  )
}
