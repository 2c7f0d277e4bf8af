/** The models of a cluster: what there is, and devices asked to load or unload one. */
import { NotFoundError } from '@kvasir/runtime/errors'
import { callApi, callJson } from './api-client.js'

/** Devices look into files, and ask each other for them, before they answer. */
const ORDER_MS_MAX = 30_000

export interface ModelCard {
  readonly id: string
  readonly kvasir: {
    readonly digest: string | null
    readonly context_tokens_max: number | null
    /** Whether it has a chat template; null before its tokenizer is there. */
    readonly chat: boolean | null
    /** Whether live devices can serve it now to a request that asks for no profile. */
    readonly ready: boolean
    readonly profiles: readonly string[]
    readonly devices: readonly ModelDevice[]
  }
}

export interface ModelDevice {
  readonly device_id: string
  readonly profile: string
  readonly state: 'loaded' | 'fetching' | 'loading' | 'failed'
  readonly numerics: string | null
  readonly weight_bytes: number | null
  readonly kv_bytes: number | null
  readonly bytes: number
  readonly bytes_total: number
  readonly source_device_id: string | null
  readonly error: string | null
}

export interface LoadWish {
  readonly model: string
  readonly profile?: string | undefined
  readonly devices?: readonly string[] | undefined
  readonly kvBytes?: number | undefined
}

/** What the devices said; one without an error has begun. */
export interface LoadBegun {
  readonly model: string
  readonly profile: string
  readonly devices: readonly { readonly device_id: string; readonly error: string | null }[]
}

export interface UnloadBegun {
  readonly model: string
  readonly devices: readonly {
    readonly device_id: string
    readonly profile: string
    readonly error: string | null
  }[]
}

export async function listModels(url: string): Promise<readonly ModelCard[]> {
  return (await callJson<{ data: ModelCard[] }>(url, '/v1/models')).data
}

/** The model of that name; where none is named, the first that can be served, else the first. */
export async function firstModel(url: string, name?: string): Promise<ModelCard> {
  const cards = await listModels(url)
  const wanted = name === undefined ? cards : cards.filter((model) => model.id === name)
  const model = wanted.find((candidate) => candidate.kvasir.ready) ?? wanted[0]
  if (model !== undefined) return model
  const known = cards.map((candidate) => candidate.id).join(', ') || 'none'
  const what = name === undefined ? 'no model' : `no model ${name}`
  throw new NotFoundError(`The cluster serves ${what}; it serves: ${known}.`)
}

/** @throws the signal's reason once it is aborted, which undoes nothing */
export async function loadModel(url: string, wish: LoadWish, signal?: AbortSignal): Promise<LoadBegun> {
  const { model, profile, devices, kvBytes } = wish
  return order<LoadBegun>(url, '/v1/models/load', { model, profile, devices, kv_bytes: kvBytes }, signal)
}

export async function unloadModel(
  url: string,
  wish: Omit<LoadWish, 'kvBytes'> & { readonly drainMs?: number | undefined },
): Promise<UnloadBegun> {
  const { model, profile, devices, drainMs } = wish
  return order<UnloadBegun>(url, '/v1/models/unload', { model, profile, devices, drain_ms: drainMs })
}

async function order<T>(url: string, path: string, body: object, interrupted?: AbortSignal): Promise<T> {
  const deadline = AbortSignal.timeout(ORDER_MS_MAX)
  const signal = interrupted === undefined ? deadline : AbortSignal.any([deadline, interrupted])
  const response = await callApi(url, path, { method: 'POST', body, signal })
  // Both ends are of one version.
  return (await response.json()) as T
}
