/** What is wrong with an entry, as one sentence that begins with file and line and ends with what to write instead. */
import { didYouMean } from '@kvasir/runtime/did-you-mean'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { z } from 'zod'
import { isLocatedMap, type Located, nearest, placeText } from './located-yaml.js'

/** `what`: such as "device u280". Points at the first of the issues. */
export function invalidEntry(
  what: string,
  entry: Located,
  issues: readonly z.core.$ZodIssue[],
  schema: z.ZodType,
): InvalidInputError {
  const issue = issues[0]
  const path = issue?.path ?? []
  if (issue?.code === 'unrecognized_keys') return unknownField(what, entry, path, issue.keys[0] ?? '', schema)
  const { located, found } = nearest(entry, path)
  const field = path.join('.')
  const taken = !isLocatedMap(located) && located.scalar === null
  // A name that is not valid says why in an issue of its own.
  const reason = issue?.code === 'invalid_key' ? issue.issues[0] : issue
  const must = reason?.message ?? 'it must be something else'
  if (!found || taken) {
    return new InvalidInputError(`${placeText(located.at)}: the ${what} lacks ${field}; ${must}.`, {
      param: field,
    })
  }
  const value = isLocatedMap(located) ? 'a mapping' : JSON.stringify(located.scalar)
  return new InvalidInputError(`${placeText(located.at)}: ${field} of the ${what} is ${value}; ${must}.`, {
    param: field,
  })
}

function unknownField(
  what: string,
  entry: Located,
  path: readonly PropertyKey[],
  name: string,
  schema: z.ZodType,
): InvalidInputError {
  const known = fieldsAt(schema, path)
  const field = [...path, name].join('.')
  const at = placeText(nearest(entry, [...path, name]).located.at)
  const hint = didYouMean(name, known)
  const there = hint === '' ? `; there are ${known.join(', ')}` : hint
  return new InvalidInputError(`${at}: the ${what} has no field ${field}${there}.`, { param: field })
}

/** Fields of the object that a path leads to. */
function fieldsAt(schema: z.ZodType, path: readonly PropertyKey[]): readonly string[] {
  let at: z.core.$ZodType = schema
  for (const name of path) {
    if (at instanceof z.ZodObject) at = at.shape[String(name)] ?? at
    else if (at instanceof z.ZodRecord) at = at.valueType
    while (at instanceof z.ZodExactOptional) at = at.unwrap()
  }
  if (at instanceof z.ZodRecord && at.keyType instanceof z.ZodEnum) return at.keyType.options.map(String)
  return at instanceof z.ZodObject ? Object.keys(at.shape) : []
}
