/** How studies round what they show: figures that differ in their last bits are the same. Pure. */

/** To so many significant digits; NaN and infinities stay. */
export function significant(value: number, digits: number): number {
  return Number(value.toPrecision(digits))
}

/** To so many digits after the point; NaN and infinities stay. */
export function fixed(value: number, digits: number): number {
  return Number(value.toFixed(digits))
}

/** To so many digits after the point; null, an empty cell, where there is no finite number. */
export function decimals(value: number, digits: number): number | null {
  return finite(fixed(value, digits))
}

/** As it is; null, an empty cell or a gap, where there is no finite number. */
export function finite(value: number): number | null {
  return Number.isFinite(value) ? value : null
}
