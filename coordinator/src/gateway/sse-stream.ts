/**
 * Server-sent events to one client.
 *
 * Invariants:
 * E1 What was written in one turn of the event loop goes out in one write.
 * E2 The producer never waits for the client: what the client does not take is buffered to
 *    `bufferBytesMax`, then the connection is cut and `onOverflow` called, once.
 * E3 After `end` the client has `drainMs` to take the rest.
 */
import type { ServerResponse } from 'node:http'

export interface SseOptions {
  readonly bufferBytesMax: number
  readonly drainMs: number
  readonly onOverflow: () => void
}

export class SseStream {
  private pending = ''
  private scheduled = false
  private state: 'open' | 'ended' | 'cut' = 'open'

  constructor(
    private readonly raw: ServerResponse,
    private readonly options: SseOptions,
  ) {}

  write(events: string): void {
    if (this.state !== 'open' || events === '') return
    this.pending += events
    if (this.scheduled) return
    this.scheduled = true
    setImmediate(() => {
      this.scheduled = false
      if (this.state === 'open') this.flush()
    })
  }

  end(events = ''): void {
    if (this.state !== 'open') return
    this.pending += events
    this.flush()
    // The flush may have found the buffer full and cut the connection.
    if (this.isCut()) return
    this.state = 'ended'
    this.raw.end()
    if (this.raw.writableFinished) return
    const timer = setTimeout(() => this.raw.destroy(), this.options.drainMs)
    this.raw.once('close', () => clearTimeout(timer))
  }

  private isCut(): boolean {
    return this.state === 'cut'
  }

  private flush(): void {
    const events = this.pending
    this.pending = ''
    if (events === '' || this.raw.destroyed) return
    this.raw.write(events)
    if (this.raw.writableLength <= this.options.bufferBytesMax) return
    this.state = 'cut'
    this.raw.destroy()
    this.options.onOverflow()
  }
}
