/** Numbers as people read them. */

/** 950 µs, 12.3 ms, 4.56 s. */
export function formatDuration(ms: number): string {
  if (ms < 1) return `${Math.round(ms * 1000)} µs`
  if (ms < 1000) return `${significant(ms)} ms`
  return `${significant(ms / 1000)} s`
}

const byteUnits = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']

/** 512 B, 1.57 MB; powers of 1,000. */
export function formatBytes(bytes: number): string {
  let unit = 0
  let value = bytes
  while (value >= 1000 && unit < byteUnits.length - 1) {
    value /= 1000
    unit += 1
  }
  return `${unit === 0 ? value : significant(value)} ${byteUnits[unit]}`
}

/** 1.57 MB/s; a dash where unknown. */
export function formatRate(bytesPerSecond: number | null): string {
  return bytesPerSecond === null || bytesPerSecond <= 0 ? '–' : `${formatBytes(bytesPerSecond)}/s`
}

/** 97 %; a dash where unknown. What is less than nothing, as noise can make it, is shown as nothing. */
export function formatShare(share: number | null): string {
  return share === null ? '–' : `${Math.round(Math.max(0, share) * 100)} %`
}

/** Three digits that matter. */
function significant(value: number): string {
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : 2
  return value.toFixed(digits)
}

/**
 * A text of somebody else's for one line of a terminal: white space is shown as a space, and what would move the
 * cursor, colour what follows or turn its direction as \ufffd.
 */
export function formatForeign(text: string): string {
  return text.replaceAll(/\s+/g, ' ').replaceAll(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, '\ufffd')
}

/** 1 chunk, 3 chunks. */
export function formatCount(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`
}

/** Lines of at most so many characters, broken at spaces; a word that is longer stands alone. */
export function wrapText(text: string, width: number): readonly string[] {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line)
      line = word
    } else line = line === '' ? word : `${line} ${word}`
  }
  return [...lines, line]
}
