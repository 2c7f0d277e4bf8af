/** One model on its way into a device, from the order to its service or its failure. */
import { ArrivalPhase, type ModelArrival, type Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import { type Deferred, deferred } from '@kvasir/runtime/deferred'

/** What is asked for. */
export interface WantedModel {
  /** A name, a folder, a file, or dummy:NAME. */
  readonly model: string
  /** Hexadecimal; empty takes what is found. */
  readonly digest: string
  readonly profile: Profile
  /** Bytes for KV in the nearest tier; undefined takes the setting. */
  readonly kvBytes: number | undefined
  /** How long to look for an agent that serves it, where it is not on this machine. */
  readonly peersMs: number
}

export class Arrival {
  phase: ArrivalPhase = ArrivalPhase.LOADING
  /** Empty until known. */
  digest: string
  bytes = 0
  bytesTotal = 0
  sourceDeviceId = ''
  /** Empty unless it failed. */
  error = ''
  /** Resolves once nothing is known to be in its way; rejects with what is. */
  readonly accepted: Deferred<void> = deferred()
  /** Resolves once it is known that its files come from another agent. */
  readonly fetching: Deferred<void> = deferred()
  /** Resolves once it is served. */
  readonly served: Deferred<void> = deferred()
  /** Aborted where it is wanted no more. */
  readonly stop = new AbortController()

  constructor(readonly wanted: WantedModel) {
    this.digest = wanted.digest
    // Whoever asked may have left.
    this.accepted.promise.catch(() => {})
    this.served.promise.catch(() => {})
  }

  /** Whether the same is asked for. */
  isFor({ model, digest, profile }: WantedModel): boolean {
    const { wanted } = this
    return wanted.profile === profile && wanted.model === model && wanted.digest === digest
  }

  message(): ModelArrival {
    const { wanted, digest, phase, bytes, bytesTotal, sourceDeviceId, error } = this
    return {
      name: wanted.model,
      digest,
      profile: wanted.profile,
      phase,
      bytes: BigInt(bytes),
      bytesTotal: BigInt(bytesTotal),
      sourceDeviceId,
      error,
    }
  }
}
