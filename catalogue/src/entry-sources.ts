/**
 * Who says what: the source of each number of an entry. An entry's `source` is that of all its numbers, its `sources` name
 * others by path; what has none, as in a user's file, is said by the line it stands in. A number that a later file
 * replaces takes the source of that file.
 */
import { didYouMean } from '@kvasir/runtime/did-you-mean'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { isLocatedMap, type Located, type LocatedMap, placeText } from './located-yaml.js'
import type { Sources } from './specs.js'

/** The entry with a source at every number, and without `source` and `sources` of its own. */
export function withSources(entry: LocatedMap, inherited?: string): LocatedMap {
  const own = entry.entries.get('source')
  const otherwise = own === undefined ? inherited : textOf(own, 'source')
  const named = entry.entries.get('sources')
  const byPath = new Map<string, string>()
  if (named !== undefined) {
    if (!isLocatedMap(named)) throw notSaying(named, 'sources')
    for (const [path, text] of named.entries) byPath.set(path, textOf(text, `sources.${path}`))
  }
  const used = new Set<string>()
  const paths: string[] = []

  const sourced = (located: Located, path: string, inheritedSource: string | undefined): Located => {
    if (path !== '') paths.push(path)
    const source = byPath.get(path) ?? inheritedSource
    if (byPath.has(path)) used.add(path)
    if (!isLocatedMap(located)) return { ...located, source: source ?? placeText(located.at) }
    // An entry within an entry, such as a preset's device, speaks for itself.
    if (path !== '' && (located.entries.has('source') || located.entries.has('sources'))) {
      return withSources(located, source)
    }
    const entries = new Map<string, Located>()
    for (const [name, value] of located.entries) {
      if (name === 'source' || name === 'sources') continue
      entries.set(name, sourced(value, path === '' ? name : `${path}.${name}`, source))
    }
    return { at: located.at, entries }
  }

  const result = sourced(entry, '', otherwise)
  for (const path of byPath.keys()) {
    if (used.has(path) || !isLocatedMap(named)) continue
    const at = placeText(named.entries.get(path)?.at ?? named.at)
    throw new InvalidInputError(
      `${at}: sources names ${path}, which this entry does not set${didYouMean(path, paths)}.`,
      { param: path },
    )
  }
  return isLocatedMap(result) ? result : entry
}

/** By path, of all numbers below. */
export function sourcesOf(located: Located, path = '', into: Record<string, string> = {}): Sources {
  if (isLocatedMap(located)) {
    for (const [name, value] of located.entries) {
      sourcesOf(value, path === '' ? name : `${path}.${name}`, into)
    }
  } else if (typeof located.scalar === 'number') {
    into[path] = located.source ?? placeText(located.at)
  }
  return into
}

function textOf(located: Located, name: string): string {
  if (!isLocatedMap(located) && typeof located.scalar === 'string' && located.scalar.trim() !== '') {
    return located.scalar
  }
  throw notSaying(located, name)
}

function notSaying(located: Located, name: string): InvalidInputError {
  const what =
    name === 'sources' ? 'a mapping of paths such as compute.fp16 to texts' : 'a text that says who says so'
  return new InvalidInputError(`${placeText(located.at)}: ${name} must be ${what}.`, { param: name })
}
