/**
 * Server-sent events to one client.
 *
 * Invariants:
 * E1 An event after a pause goes out at once; at high rates one write every FLUSH_GAP_MS takes
 *    all events since the last, since the system call costs more than all else of a token.
 *    The end never waits.
 * E2 The producer never waits for the client: what the client does not take is buffered to
 *    `bufferBytesMax`, then the connection is cut and `onOverflow` called, once.
 * E3 After `end` the client has `drainMs` to take the rest.
 */
import type { ServerResponse } from 'node:http'

/** Shorter than anyone sees, long enough to join the tokens of several fast device steps. */
const FLUSH_GAP_MS = 4

export interface SseOptions {
  readonly bufferBytesMax: number
  readonly drainMs: number
  readonly onOverflow: () => void
}

export class SseStream {
  private pending = ''
  private scheduled = false
  private lastFlushMs = Number.NEGATIVE_INFINITY
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
    const flush = () => {
      this.scheduled = false
      if (this.state === 'open') this.flush()
    }
    const waitMs = this.lastFlushMs + FLUSH_GAP_MS - performance.now()
    if (waitMs > 0) setTimeout(flush, waitMs)
    else setImmediate(flush)
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
    this.lastFlushMs = performance.now()
    if (events === '' || this.raw.destroyed) return
    this.raw.write(events)
    if (this.raw.writableLength <= this.options.bufferBytesMax) return
    this.state = 'cut'
    this.raw.destroy()
    this.options.onOverflow()
  }
}
