/** The models of a cluster, as `GET /v1/models` lists them. */
import { NotFoundError } from '@kvasir/runtime/errors'
import { callJson } from './api-client.js'

export interface ModelCard {
  readonly id: string
  readonly kvasir: {
    readonly context_tokens_max: number
    /** Whether it has a chat template. */
    readonly chat: boolean
    /** Whether live devices can serve it now. */
    readonly ready: boolean
  }
}

/** The model of that name; where none is named, the first that can be served, else the first. */
export async function firstModel(url: string, name?: string): Promise<ModelCard> {
  const { data } = await callJson<{ data: ModelCard[] }>(url, '/v1/models')
  const wanted = name === undefined ? data : data.filter((model) => model.id === name)
  const model = wanted.find((candidate) => candidate.kvasir.ready) ?? wanted[0]
  if (model !== undefined) return model
  const known = data.map((candidate) => candidate.id).join(', ') || 'none'
  throw new NotFoundError(`The cluster serves no model ${name ?? ''}; it serves: ${known}.`)
}
