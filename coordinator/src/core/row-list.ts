/**
 * Rows of device-table.ts with a time each: what a pass over all devices leaves, in memory that is used again by
 * the next pass.
 */
export class RowList {
  rows = new Int32Array(64)
  /** One for each row, milliseconds; of the pass before until they are filled in. */
  ms = new Float64Array(64)
  length = 0

  clear(): void {
    this.length = 0
  }

  push(row: number): void {
    if (this.length === this.rows.length) this.#grow()
    this.rows[this.length] = row
    this.length += 1
  }

  #grow(): void {
    const rows = new Int32Array(2 * this.rows.length)
    rows.set(this.rows)
    this.rows = rows
    this.ms = new Float64Array(rows.length)
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
    this.prefillFirst.clear()
    this.prefillLast.clear()
    this.decodeFirst.clear()
    this.decodeLast.clear()
    this.attend.clear()
  }
}
