/**
 * How many leading blocks of a prompt each device holds: a list of the few that hold any, since a directory has
 * thousands of others. They are told by number; names are looked up where they are wanted.
 */

/** What the directory knows of a holder by its number. */
export interface HolderNames {
  deviceIdOf(holder: number): string
  /** As it was given to KvDirectory.label; −1 where none was. */
  labelOf(holder: number): number
}

export class PrefixMatch {
  /** Runs ascend; of equal ones the order is that of the directory. */
  readonly #holders: number[] = []
  readonly #runs: number[] = []
  readonly #names: HolderNames

  constructor(names: HolderNames) {
    this.#names = names
  }

  /** Runs must come in ascending order, a device once. */
  add(holder: number, blocks: number): void {
    this.#holders.push(holder)
    this.#runs.push(blocks)
  }

  /** Devices that hold the first block. */
  get length(): number {
    return this.#holders.length
  }

  deviceIdAt(at: number): string {
    return this.#names.deviceIdOf(this.#holders[at] ?? -1)
  }

  labelAt(at: number): number {
    return this.#names.labelOf(this.#holders[at] ?? -1)
  }

  blocksAt(at: number): number {
    return this.#runs[at] ?? 0
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
        found.push({ deviceId: this.deviceIdAt(at), blocks: run })
      }
      end = begin
    }
    return found
  }
}
