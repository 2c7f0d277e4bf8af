/**
 * Models as `GET /v1/models` lists them: OpenAI's shape, and in `kvasir` which devices have a model, which are
 * getting it, and which could not.
 */
import type { ModelOnDevice, ModelReport } from '../model-reports.js'
import type { GatewayContext } from './gateway-context.js'

export interface ModelCard {
  readonly id: string
  readonly object: 'model'
  readonly created: number
  readonly owned_by: 'kvasir'
  readonly kvasir: {
    /** Null where it is not known yet. */
    readonly digest: string | null
    readonly context_tokens_max: number | null
    /** Whether it has a chat template; null before its tokenizer is here. */
    readonly chat: boolean | null
    /** Whether live devices can serve it now, from prompt to last token, to a request that asks for no profile. */
    readonly ready: boolean
    /** In which devices have it. */
    readonly profiles: readonly string[]
    readonly devices: readonly ModelCardDevice[]
  }
}

export interface ModelCardDevice {
  readonly device_id: string
  readonly profile: string
  readonly state: ModelOnDevice['state']
  readonly numerics: string | null
  readonly weight_bytes: number | null
  readonly kv_bytes: number | null
  readonly bytes: number
  readonly bytes_total: number
  readonly source_device_id: string | null
  readonly error: string | null
}

type Context = Pick<GatewayContext, 'service' | 'textModels' | 'profileDefault'>

/** Models that can be asked for, then those on their way. */
export function modelCards(context: Context, createdSeconds: number): ModelCard[] {
  const reports = context.service.models()
  const names = new Set([...context.textModels.names(), ...reports.map(({ name }) => name)])
  return [...names].map((name) => cardOf(name, reports, context, createdSeconds))
}

export function modelCard(name: string, context: Context, createdSeconds: number): ModelCard | undefined {
  return modelCards(context, createdSeconds).find(({ id }) => id === name)
}

function cardOf(
  name: string,
  reports: readonly ModelReport[],
  { textModels, profileDefault }: Context,
  createdSeconds: number,
): ModelCard {
  const text = textModels.get(name)
  const digest = textModels.digestOf(name)
  const report = reports.find(
    (model) => model.name === name && (digest === undefined || model.digest === digest),
  )
  const served = report?.servedProfiles ?? []
  return {
    id: name,
    object: 'model',
    created: createdSeconds,
    owned_by: 'kvasir',
    kvasir: {
      digest: digest ?? (report?.digest || null),
      context_tokens_max: text?.contextTokensMax ?? report?.contextTokensMax ?? null,
      chat: text?.hasChatTemplate ?? null,
      ready: text !== undefined && served.includes(profileDefault),
      profiles: report?.profiles ?? [],
      devices: (report?.devices ?? []).map(deviceOf),
    },
  }
}

function deviceOf(device: ModelOnDevice): ModelCardDevice {
  return {
    device_id: device.deviceId,
    profile: device.profile,
    state: device.state,
    numerics: device.numerics,
    weight_bytes: device.weightBytes,
    kv_bytes: device.kvBytes,
    bytes: device.bytes,
    bytes_total: device.bytesTotal,
    source_device_id: device.sourceDeviceId,
    error: device.error,
  }
}
