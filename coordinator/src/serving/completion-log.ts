/**
 * The last finished requests as `kvasir calibrate` reads them: what was predicted, what came of it, and the devices they
 * ran on as these described themselves. Neither prompts nor answers are in it. Bounded: the oldest go first, and a device
 * goes with its last request.
 */
import type { CompletionHistory, CompletionRecord, KeptCompletion } from '../core/completion-record.js'
import type { DeviceFacts } from '../core/facts.js'
import type { RequestReport } from '../generation.js'

export class CompletionLog {
  readonly #max: number
  #completions: KeptCompletion[] = []
  #devices = new Map<string, DeviceFacts>()

  constructor(max: number) {
    this.#max = max
  }

  /** `facts` finds a device that is still known. */
  add(
    { requestId, predicted, measured }: Pick<RequestReport, 'requestId' | 'predicted' | 'measured'>,
    record: CompletionRecord,
    facts: (deviceId: string) => DeviceFacts | undefined,
  ): void {
    this.#completions.push({ requestId, record, predicted, measured })
    for (const deviceId of devicesOf(record)) {
      const device = facts(deviceId)
      if (device) this.#devices.set(deviceId, device)
    }
    if (this.#completions.length >= 2 * this.#max) this.#trim()
  }

  history(): CompletionHistory {
    this.#trim()
    return { devices: [...this.#devices.values()], completions: this.#completions }
  }

  #trim(): void {
    if (this.#completions.length <= this.#max) return
    this.#completions = this.#completions.slice(-this.#max)
    const used = new Set(this.#completions.flatMap(({ record }) => devicesOf(record)))
    this.#devices = new Map([...this.#devices].filter(([deviceId]) => used.has(deviceId)))
  }
}

function devicesOf({ prefill, decode, transfer, fetch }: CompletionRecord): string[] {
  const ids = [prefill?.deviceId, decode?.deviceId, transfer?.fromDeviceId, transfer?.toDeviceId]
  return [...ids, fetch?.fromDeviceId, fetch?.toDeviceId].filter((id) => id !== undefined)
}
