/** One at a time, in the order in which they asked. */
export class Turns {
  #last: Promise<void> = Promise.resolve()

  /** Resolves when it is the caller's turn, with what passes it on; that must be called. */
  async take(): Promise<() => void> {
    const before = this.#last
    let passOn = () => {}
    this.#last = new Promise((resolve) => {
      passOn = resolve
    })
    await before
    return passOn
  }
}
