/**
 * Rows of device-table.ts with a time each: what a pass over all devices leaves, in memory that is used again by
 * the next pass.
 */
export class RowList {
  rows = new Int32Array(64)
  /** One for each row, milliseconds; of the pass before until they are filled in. */
  ms = new Float64Array(64)
  length = 0

  /** Empties it, with room for so many. */
  clear(room = 0): void {
    this.length = 0
    if (room <= this.rows.length) return
    this.rows = new Int32Array(2 * room)
    this.ms = new Float64Array(2 * room)
  }

  /** Where `clear` made room: the pass over all devices is as quick as this is. */
  push(row: number): void {
    this.rows[this.length] = row
    this.length += 1
  }
}

/** The rows that are left for each role, told apart by what their devices prefer. */
export class RowsLeft {
  readonly prefillFirst = new RowList()
  readonly prefillLast = new RowList()
  readonly decodeFirst = new RowList()
  readonly decodeLast = new RowList()
  readonly attend = new RowList()
  /** By row, 1 where it is left to prefill and to decode. */
  both = new Uint8Array(64)

  /** Before a pass over so many rows. */
  clear(rows: number): void {
    if (rows > this.both.length) this.both = new Uint8Array(2 * rows)
    else this.both.fill(0, 0, rows)
    this.prefillFirst.clear(rows)
    this.prefillLast.clear(rows)
    this.decodeFirst.clear(rows)
    this.decodeLast.clear(rows)
    this.attend.clear(rows)
  }
}
