/**
 * How many leading blocks of a prompt each device holds. A list of the few devices that hold any, since a
 * directory has thousands of others.
 */

/** Devices up to which a list is searched as quickly as a map. */
const LISTED_MAX = 8

export class PrefixMatch {
  /** Runs ascend; of equal ones the order is that of the directory. */
  readonly #deviceIds: string[] = []
  readonly #runs: number[] = []
  #byDevice: Map<string, number> | undefined

  /** Runs must come in ascending order, a device once. */
  add(deviceId: string, blocks: number): void {
    this.#deviceIds.push(deviceId)
    this.#runs.push(blocks)
    this.#byDevice = undefined
  }

  /** Leading blocks on the device; 0 where it has not even the first. */
  blocksOn(deviceId: string): number {
    if (this.#runs.length <= LISTED_MAX) return this.#runs[this.#deviceIds.indexOf(deviceId)] ?? 0
    this.#byDevice ??= new Map(this.#deviceIds.map((id, index) => [id, this.#runs[index] ?? 0]))
    return this.#byDevice.get(deviceId) ?? 0
  }

  /** Every device that holds the first block. */
  forEach(does: (deviceId: string, blocks: number) => void): void {
    this.#deviceIds.forEach((deviceId, index) => {
      does(deviceId, this.#runs[index] ?? 0)
    })
  }

  /** Devices with more than `blocks` leading blocks, the longest runs first, at most `max`. */
  longest(blocks: number, max: number): readonly { readonly deviceId: string; readonly blocks: number }[] {
    const found: { deviceId: string; blocks: number }[] = []
    let end = this.#runs.length
    while (end > 0 && found.length < max) {
      const run = this.#runs[end - 1] ?? 0
      if (run <= blocks) break
      let begin = end - 1
      while (begin > 0 && this.#runs[begin - 1] === run) begin -= 1
      for (let at = begin; at < end && found.length < max; at += 1) {
        found.push({ deviceId: this.#deviceIds[at] ?? '', blocks: run })
      }
      end = begin
    }
    return found
  }
}
