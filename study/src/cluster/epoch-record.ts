/** What the cost model may learn of an epoch that ended regularly. Pure. */
import type { CompletionRecord } from '@kvasir/coordinator/core/completion-record'
import type { Decision } from '@kvasir/coordinator/core/decision'
import type { DecodeFigures, PrefillFigures } from './epoch-client.js'
import type { KvTimes } from './outgoing-kv.js'

/** What its calls told; undefined: nothing. */
export interface EpochFigures {
  /** Whose KV there was when decoding began. */
  readonly contextTokens: number
  readonly prefill: PrefillFigures | undefined
  readonly decode: DecodeFigures | undefined
  readonly kv: KvTimes | undefined
}

export function epochRecord(
  modelDigest: string,
  decision: Decision,
  { contextTokens, prefill, decode, kv }: EpochFigures,
): CompletionRecord {
  const { fetch } = decision.prefix
  return {
    modelDigest,
    profile: decision.profile,
    ...(prefill === undefined
      ? {}
      : {
          prefill: {
            deviceId: prefill.deviceId,
            tokens: prefill.tokens,
            contextTokens: prefill.contextTokens,
            computeMs: prefill.shareMs,
          },
        }),
    ...(decode === undefined || decode.steps === 0
      ? {}
      : {
          decode: {
            deviceId: decision.decode.deviceId,
            steps: decode.steps,
            stepsMs: decode.stepsMs,
            batch: decode.batchMax,
            contextTokens: contextTokens + Math.floor(decode.steps / 2),
          },
        }),
    ...(kv === undefined || kv.bytes === 0
      ? {}
      : {
          transfer: {
            fromDeviceId: decision.prefill.deviceId,
            toDeviceId: decision.decode.deviceId,
            bytes: kv.bytes,
            busyMs: kv.busyMs,
          },
        }),
    ...(prefill === undefined || fetch === null || prefill.fetchedBytes === 0
      ? {}
      : {
          fetch: {
            fromDeviceId: fetch.device.deviceId,
            toDeviceId: prefill.deviceId,
            bytes: prefill.fetchedBytes,
            fetchMs: prefill.fetchMs,
          },
        }),
  }
}
