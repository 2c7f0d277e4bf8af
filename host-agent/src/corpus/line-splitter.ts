/**
 * Bytes cut anywhere become lines.
 *
 * Invariant: at most one line is held, and never more than `lineBytesMax` of it: a longer line is
 * passed over up to its end and reported once.
 */

export interface Line {
  /** Counted from 1. */
  readonly number: number
  /** Without the line feed; good until the next line is asked for. Undefined where the line is too long. */
  readonly bytes: Uint8Array | undefined
}

const LINE_FEED = 0x0a

export class LineSplitter {
  private held = Buffer.alloc(1 << 12)
  private used = 0
  private tooLong = false
  private number = 1

  constructor(private readonly lineBytesMax: number) {}

  /** The lines that end in `bytes`. */
  *push(bytes: Uint8Array): Generator<Line> {
    let begin = 0
    for (;;) {
      const end = bytes.indexOf(LINE_FEED, begin)
      if (end < 0) break
      yield this.line(bytes.subarray(begin, end))
      begin = end + 1
    }
    this.hold(bytes.subarray(begin))
  }

  /** What is left at the end: a last line without line feed. */
  *finish(): Generator<Line> {
    if (this.used > 0 || this.tooLong) yield this.line(new Uint8Array(0))
  }

  private line(rest: Uint8Array): Line {
    const { number } = this
    this.number += 1
    let bytes: Uint8Array | undefined = rest
    if (this.used > 0 || this.tooLong) {
      this.hold(rest)
      bytes = this.held.subarray(0, this.used)
    }
    const tooLong = this.tooLong || rest.length > this.lineBytesMax
    this.used = 0
    this.tooLong = false
    return { number, bytes: tooLong ? undefined : bytes }
  }

  private hold(bytes: Uint8Array): void {
    const wanted = this.used + bytes.length
    if (this.tooLong || wanted > this.lineBytesMax) {
      this.tooLong = true
      this.used = 0
      return
    }
    if (wanted > this.held.length) {
      const larger = Buffer.alloc(Math.min(this.lineBytesMax, Math.max(wanted, 2 * this.held.length)))
      larger.set(this.held.subarray(0, this.used))
      this.held = larger
    }
    this.held.set(bytes, this.used)
    this.used = wanted
  }
}
