/** What a cluster says of its models, and the texts that they give in one process. */
import { createLocalGenerator } from '@kvasir/engine/local-generator'
import { loadTextModel } from '@kvasir/engine/text/text-model'
import { type TestCluster, until } from './cluster.js'

export interface ModelCard {
  readonly id: string
  readonly kvasir: {
    readonly digest: string | null
    readonly chat: boolean | null
    readonly ready: boolean
    readonly profiles: readonly string[]
    readonly devices: readonly {
      readonly device_id: string
      readonly profile: string
      readonly state: string
      readonly numerics: string | null
      readonly error: string | null
    }[]
  }
}

export async function models(cluster: TestCluster): Promise<readonly ModelCard[]> {
  return ((await cluster.json('/v1/models')) as { data: ModelCard[] }).data
}

/** Waits until the model can be asked for and these devices have it. */
export async function untilLoaded(
  cluster: TestCluster,
  model: string,
  devices: readonly string[],
): Promise<void> {
  await until(
    `${model} is loaded on ${devices.join(', ')}`,
    async () => {
      const card = (await models(cluster)).find(({ id }) => id === model)
      const failed = card?.kvasir.devices.find(({ state }) => state === 'failed')
      if (failed) throw new Error(`${failed.device_id}: ${failed.error}`)
      const loaded = card?.kvasir.devices.filter(({ state }) => state === 'loaded') ?? []
      const ids = loaded.map(({ device_id }) => device_id)
      return card?.kvasir.ready === true && devices.every((device) => ids.includes(device))
    },
    30_000,
  )
}

/** Status and error of a completion that is to be refused. */
export async function refusal(
  cluster: TestCluster,
  fields: object,
): Promise<{ status: number; code: string; message: string }> {
  const response = await fetch(`${cluster.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: 'Once', max_tokens: 2, ...fields }),
    signal: AbortSignal.timeout(20_000),
  })
  const { error } = (await response.json()) as { error: { code: string; message: string } }
  return { status: response.status, code: error.code, message: error.message }
}

/** Greedy text of the engine alone, past the model's own end. */
export async function localText(model: string, prompt: string, maxTokens: number): Promise<string> {
  const text = await loadTextModel(model)
  const generator = await createLocalGenerator({ model })
  try {
    const decoder = text.decoder()
    const sampling = { temperature: 0, topP: 1, topK: 0, seed: 7n, logprobs: false, topLogprobs: 0 }
    let result = ''
    const options = { maxTokens, stopTokens: [], sampling }
    for await (const token of generator.generate(text.encode(prompt), options))
      result += decoder.push(token.id)
    return result + decoder.flush()
  } finally {
    await generator.close()
  }
}
