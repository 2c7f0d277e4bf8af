/** Names below an axis of categories: level where they fit, else slanted, shortened, and not all of them. */

/** About the width of a character of 12 px. */
export const characterPx = 6.7
/** Shorter names are numbers mostly: of many, some say it all. */
const numberCharactersMax = 6
const slantDegrees = 38
const slantedCharactersMax = 22
const slantedGapPx = 15
const lineHeightPx = 14

export interface CategoryTicks {
  readonly ticks: readonly { readonly at: number; readonly text: string }[]
  readonly rotate: number
  readonly heightPx: number
  /** What the first name needs left of the axis. */
  readonly leftPx: number
}

export function categoryTicks(names: readonly string[], widthPx: number): CategoryTicks {
  const bandPx = widthPx / Math.max(1, names.length)
  const longest = Math.max(0, ...names.map((name) => name.length))
  if (longest * characterPx + 6 <= bandPx || names.length === 1) {
    const charactersMax = Math.floor(widthPx / characterPx)
    return {
      ticks: names.map((name, at) => ({ at, text: shortened(name, charactersMax) })),
      rotate: 0,
      heightPx: lineHeightPx + 12,
      leftPx: 0,
    }
  }
  if (names.length > 12 && names.every((name) => name.length <= numberCharactersMax)) {
    const every = Math.ceil((longest * characterPx + 14) / bandPx)
    return {
      ticks: names.map((text, at) => ({ at, text })).filter(({ at }) => at % every === 0),
      rotate: 0,
      heightPx: lineHeightPx + 12,
      leftPx: 0,
    }
  }
  const every = Math.max(1, Math.ceil(slantedGapPx / bandPx))
  const ticks = names
    .map((name, at) => ({ at, text: shortened(name, slantedCharactersMax) }))
    .filter(({ at }) => at % every === 0)
  const shownPx = Math.min(longest, slantedCharactersMax) * characterPx
  const radians = (slantDegrees * Math.PI) / 180
  const firstPx = (ticks[0]?.text.length ?? 0) * characterPx * Math.cos(radians)
  return {
    ticks,
    rotate: -slantDegrees,
    heightPx: 16 + shownPx * Math.sin(radians),
    leftPx: firstPx - bandPx / 2 + 8,
  }
}

function shortened(text: string, charactersMax: number): string {
  return text.length <= charactersMax ? text : `${text.slice(0, charactersMax - 1)}…`
}
