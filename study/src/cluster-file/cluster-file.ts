/**
 * A cluster as a YAML file describes it, made into a plan with the catalogue's numbers.
 *
 * Whatever is wrong throws an InvalidInputError that begins with file and line and says what to write instead: fields
 * that do not exist, names nobody knows, a model that fits nowhere, a cluster without a device that prefills or decodes.
 */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Catalogue } from '@kvasir/catalogue/specs'
import { didYouMean } from '@kvasir/runtime/did-you-mean'
import { InvalidInputError, messageOf } from '@kvasir/runtime/errors'
import { z } from 'zod'
import type { ClusterPlan } from '../cluster/cluster-plan.js'
import { type ClusterEntry, clusterSchema } from './cluster-schema.js'
import { planOf } from './entry-plan.js'
import { PlacedYaml } from './placed-yaml.js'

/** What is studied where no file is named. */
export const DEFAULT_CLUSTER_FILE = fileURLToPath(
  new URL('../../examples/a100-and-u280.yaml', import.meta.url),
)

export interface ClusterDescription {
  readonly entry: ClusterEntry
  readonly yaml: PlacedYaml
}

/** `file` undefined: the cluster that comes with Kvasir. */
export function readClusterFile(file: string | undefined): ClusterDescription {
  const path = file ?? DEFAULT_CLUSTER_FILE
  const yaml = new PlacedYaml(readText(path), path)
  const result = clusterSchema.safeParse(yaml.plain)
  if (result.success) return { entry: result.data, yaml }
  throw entryError(yaml, result.error.issues[0])
}

export function clusterPlan(description: ClusterDescription, catalogue: Catalogue): ClusterPlan {
  return planOf(description, catalogue)
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new InvalidInputError(
      `The cluster file ${path} cannot be read (${messageOf(error)}): give the path of a YAML file with --cluster, or leave --cluster out.`,
      { param: 'cluster' },
    )
  }
}

function entryError(yaml: PlacedYaml, issue: z.core.$ZodIssue | undefined): InvalidInputError {
  const path = issue?.path ?? []
  const field = fieldName(path)
  if (issue?.code === 'unrecognized_keys') {
    const [key = ''] = issue.keys
    const known = fieldsAt(path)
    const hint = didYouMean(key, known) || `; there are ${known.join(', ')}`
    const where = path.length === 0 ? 'a cluster' : field
    return yaml.error([...path, key], `${where} has no field ${key}${hint}.`)
  }
  const value = valueAt(yaml.plain, path)
  const must = issue?.message ?? 'it must be something else'
  if (path.length === 0) {
    const what = value === undefined || value === null ? 'is empty' : 'has no fields'
    return yaml.error(path, `the file ${what}; a cluster has ${requiredFields().join(', ')}.`)
  }
  if (value === undefined || value === null) return yaml.error(path, `${field} is missing; ${must}.`)
  const shown = typeof value === 'object' ? 'something else' : JSON.stringify(value)
  return yaml.error(path, `${field} is ${shown}; ${must}.`)
}

function requiredFields(): readonly string[] {
  return Object.entries(clusterSchema.shape).flatMap(([name, type]) =>
    type instanceof z.ZodExactOptional ? [] : [name],
  )
}

/** Such as machines[0].devices[1].count. */
export function fieldName(path: readonly PropertyKey[]): string {
  return path
    .map((name) => (typeof name === 'number' ? `[${name}]` : `.${String(name)}`))
    .join('')
    .replace(/^\./, '')
}

function valueAt(plain: unknown, path: readonly PropertyKey[]): unknown {
  let at = plain
  for (const name of path) {
    if (typeof at !== 'object' || at === null) return undefined
    at = Reflect.get(at, name)
  }
  return at
}

/** Fields of the object that a path leads to. */
function fieldsAt(path: readonly PropertyKey[]): readonly string[] {
  let at: z.core.$ZodType = clusterSchema
  for (const name of path) {
    while (at instanceof z.ZodExactOptional) at = at.unwrap()
    if (at instanceof z.ZodObject) at = at.shape[String(name)] ?? at
    else if (at instanceof z.ZodArray) at = at.element
  }
  while (at instanceof z.ZodExactOptional) at = at.unwrap()
  return at instanceof z.ZodObject ? Object.keys(at.shape) : []
}
