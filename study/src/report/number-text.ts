/** Numbers as a reader wants them: four digits that matter, thousands set apart, no more. */

const digits = 4
const grouped = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 })

/** 1,234,567 · 12.3 · 0.001235 · 3.2e-9. */
export function numberText(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? '–' : value > 0 ? '∞' : '−∞'
  if (value === 0) return '0'
  const size = Math.abs(value)
  if (size >= 1e12 || size < 1e-6) return value.toExponential(2).replace('e+', 'e')
  if (size >= 1_000) return grouped.format(value)
  return String(Number(value.toPrecision(digits)))
}

const thousands = [
  [1e12, 'T'],
  [1e9, 'G'],
  [1e6, 'M'],
  [1e3, 'k'],
] as const
/** Below, thousands are read as easily as k. */
const lettersFrom = 1e4

/** The ticks of an axis: 0.25, 9,000, 12.5k, 1.5M, 1e-7. Those of a linear axis share their letter. */
export function tickTexts(ticks: readonly number[], scale: 'linear' | 'log'): readonly string[] {
  const most = ticks.reduce((max, tick) => Math.max(max, Math.abs(tick)), 0)
  return ticks.map((tick) => tickText(tick, scale === 'log' ? Math.abs(tick) : most))
}

/** @param size whose letter is taken */
function tickText(value: number, size: number): string {
  // What adding steps leaves behind, such as 0.30000000000000004.
  const clean = Number(value.toPrecision(6))
  if (clean === 0) return '0'
  if (size < 1e-4 || size >= 1e15) return clean.toExponential().replace('e+', 'e')
  const unit = size < lettersFrom ? undefined : thousands.find(([from]) => size >= from)
  if (unit !== undefined) return `${Number((clean / unit[0]).toPrecision(6))}${unit[1]}`
  return Math.abs(clean) >= 1_000 ? new Intl.NumberFormat('en-US').format(clean) : String(clean)
}
