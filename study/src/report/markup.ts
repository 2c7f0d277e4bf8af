/**
 * HTML in which everything is text unless it is Markup: names of devices, models and files come from users' inputs and
 * must never become elements, attributes or scripts.
 */

export class Markup {
  /** @param text trusted as it stands: of this package, or of a library that escapes */
  constructor(readonly text: string) {}
}

type Part = string | number | Markup | readonly Markup[]

/** A template: what is put in is escaped, but for Markup. Attributes are to be written in double quotes. */
export function html(strings: TemplateStringsArray, ...parts: readonly Part[]): Markup {
  return new Markup(strings.map((text, index) => text + partText(parts[index])).join(''))
}

function partText(part: Part | undefined): string {
  if (part === undefined) return ''
  if (part instanceof Markup) return part.text
  if (typeof part === 'object') return part.map(({ text }) => text).join('')
  return escapeText(String(part))
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}

/** Characters that turn the direction of what follows, and controls, are shown as \ufffd. */
function escapeText(text: string): string {
  return text
    .replaceAll(/(?![\t\n])\p{Cc}|[\u202a-\u202e\u2066-\u2069]/gu, '\ufffd')
    .replaceAll(/[&<>"']/g, (character) => entities[character] ?? character)
}

/** For a script element of type application/json: it cannot end the element. */
export function jsonMarkup(value: unknown): Markup {
  return new Markup(JSON.stringify(value).replaceAll('<', '\\u003c'))
}
