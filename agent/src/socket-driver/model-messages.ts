/** Models as messages, on the agent's side. What cannot be is a CorruptDataError. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import type { LoadedModelFacts, ModelOptions, ModelPlan } from '@kvasir/engine/device-driver'
import { numericsMessage, numericsOf } from '@kvasir/engine/driver-process/numerics-message'
import { kvBlockBytes } from '@kvasir/engine/kv-format'
import { numericsName } from '@kvasir/engine/numerics'
import type { Inspect } from '@kvasir/proto/kvasir/driver/v1/driver'
import { CorruptDataError } from '@kvasir/runtime/errors'
import { answered, type Said } from './driver-connection.js'

/** The driver may run in another folder, so a path goes as a whole one. */
export function inspectMessage({ model, numerics }: ModelOptions): Inspect {
  const path = resolve(model)
  return { model: existsSync(path) ? path : model, numerics: numericsMessage(numerics) }
}

export function planOf(said: Said): ModelPlan {
  const { name, digest, contextTokensMax, ...plan } = answered(said, 'inspected')
  const weightBytes = Number(plan.weightBytes)
  const poolBlockBytes = Number(plan.poolBlockBytes)
  check(digest, { poolBlockBytes, contextTokensMax })
  return { name, digest, weightBytes, poolBlockBytes, contextTokensMax }
}

export interface LoadedByDriver {
  /** The driver's number for it. */
  readonly model: number
  readonly facts: LoadedModelFacts
}

export function loadedOf(said: Said, { numerics }: ModelOptions): LoadedByDriver {
  const loaded = answered(said, 'loaded')
  const { model, name, digest, contextTokensMax, vocabularySize, layers, heads, kvHeads, headDim } = loaded
  const { slidingWindowTokens } = loaded
  const facts: LoadedModelFacts = {
    name,
    digest,
    numerics,
    contextTokensMax,
    vocabularySize,
    layers,
    heads,
    kvHeads,
    headDim,
    ...(slidingWindowTokens === undefined ? {} : { slidingWindowTokens }),
    blockLayerBytes: Number(loaded.blockLayerBytes),
    poolBlockBytes: Number(loaded.poolBlockBytes),
    parameters: Number(loaded.parameters),
    weightBytes: Number(loaded.weightBytes),
    stopTokens: loaded.stopTokens,
  }
  const { poolBlockBytes } = facts
  check(digest, { model, contextTokensMax, vocabularySize, layers, heads, kvHeads, headDim, poolBlockBytes })
  const got = numericsName(numericsOf(loaded.numerics))
  if (got !== numericsName(numerics)) {
    throw new CorruptDataError(`it loaded the model in ${got} where ${numericsName(numerics)} was asked for`)
  }
  if (heads % kvHeads !== 0)
    throw new CorruptDataError(`${kvHeads} KV heads cannot serve ${heads} query heads`)
  const blockBytes = kvBlockBytes(facts, numerics.wire)
  if (facts.blockLayerBytes !== blockBytes) {
    throw new CorruptDataError(
      `a block of a layer of its model is ${blockBytes} bytes, not ${facts.blockLayerBytes}`,
    )
  }
  return { model, facts }
}

function check(digest: string, sizes: Readonly<Record<string, number>>): void {
  if (!/^[0-9a-f]{64}$/.test(digest))
    throw new CorruptDataError(`its model's digest is "${digest.slice(0, 80)}"`)
  for (const [name, size] of Object.entries(sizes)) {
    if (!(size >= 1)) throw new CorruptDataError(`its model has ${name} ${size}`)
  }
}
