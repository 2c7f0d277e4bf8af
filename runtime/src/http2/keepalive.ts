/**
 * Notices that a peer is cut off without a reset: pings it, and gives it up where nothing at all comes from it
 * in time.
 */
export interface KeepaliveParts {
  readonly pingMs: number
  readonly pongMs: number
  /** Whether it matters now. */
  needed(): boolean
  ping(): void
  lost(): void
}

export class Keepalive {
  private readonly timer: NodeJS.Timeout
  private deadline: NodeJS.Timeout | undefined

  constructor(private readonly parts: KeepaliveParts) {
    this.timer = setInterval(() => this.check(), parts.pingMs).unref()
  }

  /** Something came. */
  heard(): void {
    clearTimeout(this.deadline)
    this.deadline = undefined
  }

  stop(): void {
    this.heard()
    clearInterval(this.timer)
  }

  private check(): void {
    const { parts } = this
    if (this.deadline !== undefined || !parts.needed()) return
    parts.ping()
    const deadline = setTimeout(() => {
      // What came while this process was busy is read first.
      setImmediate(() => {
        if (this.deadline === deadline) parts.lost()
      })
    }, parts.pongMs).unref()
    this.deadline = deadline
  }
}
