/**
 * A history of finished requests as lines of JSON, so that it can be kept, joined and calibrated elsewhere:
 * `{"device": …}` for each device and `{"completion": …}` for each request, in any order. Of a device the last line counts.
 */
import type { CompletionHistory, KeptCompletion } from '@kvasir/coordinator/core/completion-record'
import type { DeviceFacts } from '@kvasir/coordinator/core/facts'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { z } from 'zod'

const amount = z.number().min(0)
const above0 = z.number().positive()
const id = z.string().min(1)
const profile = z.enum(['exact', 'paper'])
const tier = z.object({ name: z.string(), capacityBytes: amount, bytesPerSecond: amount })
const rate = z.object({ precision: z.enum(['f32', 'f16', 'bf16', 'int8', 'int4']), opsPerSecond: amount })

const device = z.object({
  deviceId: id,
  incarnation: z.string(),
  protocolVersion: amount,
  protocolVersionMin: amount,
  capabilities: z.array(z.enum(['prefill', 'decode', 'kv-tier', 'attend', 'retrieve', 'corpus'])),
  models: z.array(
    z.object({
      name: z.string(),
      digest: id,
      profile,
      numerics: z.string(),
      contextTokensMax: above0,
      kvBytesPerToken: above0,
      poolBytesPerToken: above0,
      layers: above0,
      parameters: above0,
      weightBytes: above0,
      blockTokens: above0.exactOptional(),
      variant: z.string(),
      tiers: z.array(tier),
      compute: z.array(rate),
      slidingWindowTokens: above0.exactOptional(),
    }),
  ),
  decodeSlots: amount,
  tiers: z.array(tier),
  compute: z.array(rate),
  kernels: z.array(z.object({ name: z.string(), version: amount, limits: z.record(z.string(), z.number()) })),
  modelled: z.boolean(),
  link: z.object({ bytesPerSecond: amount, latencyMs: amount }),
})

const seen = amount.nullable()
const between = { fromDeviceId: id, toDeviceId: id, bytes: amount }

const completion = z.object({
  requestId: id,
  record: z.object({
    modelDigest: id,
    profile,
    prefill: z
      .object({ deviceId: id, tokens: amount, contextTokens: amount, computeMs: amount })
      .exactOptional(),
    decode: z
      .object({ deviceId: id, steps: amount, stepsMs: amount, batch: above0, contextTokens: amount })
      .exactOptional(),
    transfer: z.object({ ...between, busyMs: amount }).exactOptional(),
    attention: z
      .object({
        chooserDeviceId: id.exactOptional(),
        applierDeviceId: id,
        pages: amount,
        pagesRead: amount,
        relevancyMs: amount,
        retrievalMs: amount,
        applyMs: amount,
      })
      .exactOptional(),
    fetch: z.object({ ...between, fetchMs: amount }).exactOptional(),
  }),
  predicted: z.object({ ttftMs: amount, tpotMs: amount }).nullable(),
  measured: z.object({ queueMs: seen, ttftMs: seen, tpotMs: seen }),
})

const line = z.union([z.strictObject({ device }), z.strictObject({ completion })], {
  error: 'it must be {"device": …} or {"completion": …}, as kvasir calibrate --save writes them',
})

/** `file` names the text in errors, which say the line too. */
export function readHistory(text: string, file: string): CompletionHistory {
  const devices = new Map<string, DeviceFacts>()
  const completions: KeptCompletion[] = []
  text.split('\n').forEach((one, index) => {
    if (one.trim() === '') return
    const at = `${file}:${index + 1}`
    const value = jsonOf(one, at)
    const parsed = line.safeParse(value)
    if (!parsed.success)
      throw new InvalidInputError(`${at}: this line is not valid: ${whatIsWrong(value, parsed.error)}.`)
    if ('device' in parsed.data) devices.set(parsed.data.device.deviceId, parsed.data.device)
    else completions.push(parsed.data.completion)
  })
  return { devices: [...devices.values()], completions }
}

export function historyLines({ devices, completions }: CompletionHistory): string {
  const lines = [
    ...devices.map((facts) => JSON.stringify({ device: facts })),
    ...completions.map((kept) => JSON.stringify({ completion: kept })),
  ]
  return lines.map((one) => `${one}\n`).join('')
}

/** Several histories as one; of a request that is in more than one, the last counts. */
export function joinedHistories(histories: readonly CompletionHistory[]): CompletionHistory {
  const devices = new Map<string, DeviceFacts>()
  const completions = new Map<string, KeptCompletion>()
  for (const history of histories) {
    for (const facts of history.devices) devices.set(facts.deviceId, facts)
    for (const kept of history.completions) completions.set(kept.requestId, kept)
  }
  return { devices: [...devices.values()], completions: [...completions.values()] }
}

function jsonOf(text: string, at: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new InvalidInputError(`${at}: this line is not JSON; remove it, or save the history again.`)
  }
}

/** The union only says that neither fits: the one that was meant says more. */
function whatIsWrong(value: unknown, error: z.ZodError): string {
  const [name, inner] = typeof value === 'object' && value !== null ? (Object.entries(value)[0] ?? []) : []
  const meant = name === 'device' ? device : name === 'completion' ? completion : undefined
  const issue = meant?.safeParse(inner).error?.issues[0] ?? error.issues[0]
  const where = issue?.path.join('.') ?? ''
  return `${where === '' ? '' : `${where}: `}${issue?.message ?? 'unknown'}`
}
