/**
 * How series are told apart. After Okabe and Ito, darkened for white and lightened for dark paper until each has a
 * contrast of 3:1 against it; shapes and dashes tell apart what colours do not, in print too.
 */

/** `var(--s1)` …: the colours themselves are in assets/report.css, one set a scheme. */
const coloursMax = 8

export const symbols = ['circle', 'square', 'triangle', 'diamond', 'cross', 'star', 'wye'] as const
export type SeriesSymbol = (typeof symbols)[number]

export interface SeriesStyle {
  readonly colour: string
  readonly symbol: SeriesSymbol
  /** SVG's stroke-dasharray; undefined for a full line. */
  readonly dash: string | undefined
  readonly isReference: boolean
}

interface Named {
  readonly name: string
  readonly isReference?: boolean
}

/** A reference has the colour of the series whose name it begins with or holds, else one of its own; it is dashed. */
export function seriesStyles(series: readonly Named[]): readonly SeriesStyle[] {
  const numbers = new Map<string, number>()
  for (const { name, isReference } of series) if (!isReference) numbers.set(name, numbers.size)
  let next = numbers.size
  return series.map(({ name, isReference = false }) => {
    const number = isReference ? (relatedOf(name, numbers) ?? next++) : (numbers.get(name) ?? 0)
    return {
      colour: `var(--s${(number % coloursMax) + 1})`,
      symbol: symbols[number % symbols.length] ?? 'circle',
      dash: isReference ? '5 4' : number < coloursMax ? undefined : '9 3 2 3',
      isReference,
    }
  })
}

/** The longest name that the reference's holds. */
function relatedOf(reference: string, numbers: ReadonlyMap<string, number>): number | undefined {
  const names = [...numbers.keys()].filter((name) => name !== '' && reference.includes(name))
  const longest = names.sort((a, b) => b.length - a.length)[0]
  return longest === undefined ? undefined : numbers.get(longest)
}
