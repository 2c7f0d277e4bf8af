/**
 * YAML whose every value knows where it stands and who says so: what errors point at, and what is merged number by number.
 *
 * Y1 A value is placed at the line of its name. Y2 Merging changes neither of its parts.
 */
import { InvalidInputError } from '@kvasir/runtime/errors'
import { isAlias, isMap, isScalar, LineCounter, type Node, parseDocument } from 'yaml'

export interface Place {
  readonly file: string
  readonly line: number
}

export interface LocatedScalar {
  readonly at: Place
  readonly scalar: string | number | boolean | null
  /** Who says so, once known. */
  readonly source?: string
}

export interface LocatedMap {
  readonly at: Place
  readonly entries: ReadonlyMap<string, Located>
}

export type Located = LocatedScalar | LocatedMap

export function isLocatedMap(located: Located | undefined): located is LocatedMap {
  return located !== undefined && 'entries' in located
}

export function placeText({ file, line }: Place): string {
  return `${file}:${line}`
}

/** A whole file, which must be a mapping. An empty one has no entries. */
export function readLocatedYaml(text: string, file: string): LocatedMap {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false })
  const fault = document.errors[0]
  if (fault) {
    const at = placeText({ file, line: lines.linePos(fault.pos[0]).line })
    if (fault.code === 'DUPLICATE_KEY') {
      throw new InvalidInputError(`${at}: the name stands here for the second time; keep one of the two.`)
    }
    throw new InvalidInputError(`${at}: this is not YAML: ${fault.message}; correct the line.`)
  }
  const lineOf = (node: Node | null, otherwise: number) =>
    node?.range ? lines.linePos(node.range[0]).line : otherwise

  const locate = (node: Node | null, line: number): Located => {
    const at = { file, line }
    if (isAlias(node)) return locate(node.resolve(document) ?? null, line)
    if (isMap<Node, Node | null>(node)) {
      const entries = new Map<string, Located>()
      for (const { key, value } of node.items) {
        const name = isScalar(key) ? String(key.value) : key.toString()
        entries.set(name, locate(value, lineOf(key, line)))
      }
      return { at, entries }
    }
    if (node === null) return { at, scalar: null }
    const value: unknown = isScalar(node) ? node.value : undefined
    if (value === null) return { at, scalar: null }
    if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') {
      return { at, scalar: value }
    }
    throw new InvalidInputError(
      `${placeText(at)}: a list stands here; the catalogue has only values and mappings of names to values.`,
    )
  }

  const { contents } = document
  if (contents === null) return { at: { file, line: 1 }, entries: new Map() }
  const root = locate(contents, lineOf(contents, 1))
  if (isLocatedMap(root)) return root
  throw new InvalidInputError(
    `${placeText(root.at)}: a mapping is needed here; begin with devices:, links:, models: or presets:.`,
  )
}

/** `over` upon `base`: mappings are joined, anything else is replaced. */
export function merged(base: Located | undefined, over: Located): Located {
  if (!isLocatedMap(base) || !isLocatedMap(over)) return over
  const entries = new Map(base.entries)
  for (const [name, value] of over.entries) entries.set(name, merged(base.entries.get(name), value))
  return { at: over.at, entries }
}

/** As plain data; a name whose value was set to null is left out. */
export function plainOf(located: Located): unknown {
  if (!isLocatedMap(located)) return located.scalar
  const plain: Record<string, unknown> = {}
  for (const [name, value] of located.entries) {
    if (isLocatedMap(value) || value.scalar !== null) plain[name] = plainOf(value)
  }
  return plain
}

/** Where the value at a path stands, or the nearest mapping around it, and what of the path is there. */
export function nearest(
  root: Located,
  path: readonly PropertyKey[],
): { readonly located: Located; readonly found: boolean } {
  let located = root
  for (const name of path) {
    const next = isLocatedMap(located) ? located.entries.get(String(name)) : undefined
    if (next === undefined) return { located, found: false }
    located = next
  }
  return { located, found: true }
}
