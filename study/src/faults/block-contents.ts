/** What each block of a device really contains, whatever its core believes: so much of the page of this name. */

export class BlockContents {
  readonly #names: (string | undefined)[]
  readonly #filled: Int32Array

  constructor(readonly capacityBlocks: number) {
    this.#names = new Array<string | undefined>(capacityBlocks).fill(undefined)
    this.#filled = new Int32Array(capacityBlocks)
  }

  write(block: number, name: string, filledTokens: number): void {
    this.#names[block] = name
    this.#filled[block] = filledTokens
  }

  copy(from: number, to: number): void {
    this.#names[to] = this.#names[from]
    this.#filled[to] = this.#filled[from] ?? 0
  }

  /** Whether at least the first `tokens` tokens of that page are there. */
  holds(block: number, name: string, tokens: number): boolean {
    return this.#names[block] === name && (this.#filled[block] ?? 0) >= tokens
  }

  /** Names of the blocks that are full. */
  fullNames(blockTokens: number): Set<string> {
    const full = new Set<string>()
    for (const [block, name] of this.#names.entries()) {
      if (name !== undefined && (this.#filled[block] ?? 0) >= blockTokens) full.add(name)
    }
    return full
  }

  text(block: number): string {
    const name = this.#names[block]
    return name === undefined ? 'nothing' : `${this.#filled[block]} tokens of ${name}`
  }
}
