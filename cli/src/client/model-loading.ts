/**
 * Follows a model to the devices that were asked to load it.
 *
 * L1 Every device that was asked ends as loaded or failed; one that says nothing of the model for
 *    SILENCE_MS_MAX has failed.
 * L2 It ends once the model can be asked for, not before.
 */
import { delay } from '@kvasir/runtime/deferred'
import { type LoadBegun, listModels, type ModelCard, type ModelDevice } from './models.js'

const POLL_MS = 250
const SILENCE_MS_MAX = 15_000
/** For the coordinator to fetch the tokenizer from a device that has the model. */
const TOKENIZER_MS_MAX = 15_000

export interface LoadOutcome {
  readonly deviceId: string
  readonly state: 'loaded' | 'failed'
  readonly error: string | null
}

/** Where one device is; undefined before it has said so. */
export interface LoadProgress {
  readonly deviceId: string
  readonly now: ModelDevice | undefined
}

/** @throws the signal's reason once it is aborted, and what calls to the cluster throw */
export async function followLoad(
  url: string,
  { model, profile, devices }: LoadBegun,
  signal: AbortSignal,
  onProgress: (progress: readonly LoadProgress[]) => void = () => {},
): Promise<readonly LoadOutcome[]> {
  const outcomes = new Map<string, LoadOutcome>()
  const heardMs = new Map<string, number>()
  for (const { device_id: deviceId, error } of devices) {
    if (error === null) heardMs.set(deviceId, performance.now())
    else outcomes.set(deviceId, { deviceId, state: 'failed', error })
  }
  let allEndedMs: number | undefined
  for (;;) {
    signal.throwIfAborted()
    const card = (await listModels(url)).find(({ id }) => id === model)
    const nowMs = performance.now()
    const progress = [...heardMs.keys()].map((deviceId) => ({
      deviceId,
      now: card?.kvasir.devices.find((on) => on.device_id === deviceId && on.profile === profile),
    }))
    for (const { deviceId, now } of progress) {
      if (now) heardMs.set(deviceId, nowMs)
      const outcome = outcomeOf(deviceId, now, nowMs - (heardMs.get(deviceId) ?? nowMs))
      if (outcome && !outcomes.has(deviceId)) outcomes.set(deviceId, outcome)
    }
    onProgress(progress)
    if (outcomes.size === devices.length) {
      allEndedMs ??= nowMs
      if (canBeAsked(card, outcomes) || nowMs - allEndedMs > TOKENIZER_MS_MAX) break
    }
    await delay(POLL_MS, signal)
  }
  return devices.flatMap(({ device_id: deviceId }) => outcomes.get(deviceId) ?? [])
}

function outcomeOf(
  deviceId: string,
  now: ModelDevice | undefined,
  silentMs: number,
): LoadOutcome | undefined {
  if (now?.state === 'loaded') return { deviceId, state: 'loaded', error: null }
  if (now?.state === 'failed') return { deviceId, state: 'failed', error: now.error ?? 'It failed.' }
  if (silentMs <= SILENCE_MS_MAX) return undefined
  return { deviceId, state: 'failed', error: `${deviceId} is not heard to load it any more.` }
}

function canBeAsked(card: ModelCard | undefined, outcomes: ReadonlyMap<string, LoadOutcome>): boolean {
  const isSomewhere = [...outcomes.values()].some(({ state }) => state === 'loaded')
  return !isSomewhere || (card !== undefined && card.kvasir.chat !== null)
}
