/**
 * The calls that the engine's thread has been given and not yet served.
 *
 * Q1 Calls are begun in the order in which they came, each after the one before it has taken effect (D5
 *    of device-driver.ts); what can be done at once is done before `push` returns.
 * Q2 `caughtUp` lets a running step wait for the calls that have come, so that they are served between
 *    two of its own calls into ONNX Runtime; those that come meanwhile wait for the next time.
 */
export class WorkerQueue<T> {
  readonly #waiting: T[] = []
  readonly #serve: (item: T) => Promise<void> | undefined
  #serving: Promise<void> | undefined
  #given = 0
  #served = 0

  /** `serve` begins a call; a promise that it returns, which never rejects, is waited for before the next. */
  constructor(serve: (item: T) => Promise<void> | undefined) {
    this.#serve = serve
  }

  push(item: T): void {
    this.#waiting.push(item)
    this.#given++
    if (this.#serving === undefined) this.#advance()
  }

  get isEmpty(): boolean {
    return this.#served === this.#given
  }

  async caughtUp(): Promise<void> {
    const given = this.#given
    while (this.#served < given && this.#serving !== undefined) await this.#serving
  }

  #advance(): void {
    for (let item = this.#waiting.shift(); item !== undefined; item = this.#waiting.shift()) {
      const pending = this.#serve(item)
      if (pending !== undefined) {
        this.#serving = pending.then(() => {
          this.#serving = undefined
          this.#served++
          this.#advance()
        })
        return
      }
      this.#served++
    }
  }
}
