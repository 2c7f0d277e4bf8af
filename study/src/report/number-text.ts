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
