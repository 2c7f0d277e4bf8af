/**
 * The catalogue from its files and the user's.
 *
 * A user's file has the same form as ours: `devices`, `links`, `models`, `presets`, any of them, by id. An entry that
 * exists is changed number by number, null takes a number away; a new one is complete, or says `like: <id>` and what
 * differs. Later files change what earlier ones say. Whatever is wrong throws an InvalidInputError with file and line.
 */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { didYouMean } from '@kvasir/runtime/did-you-mean'
import { InvalidInputError, messageOf } from '@kvasir/runtime/errors'
import type { z } from 'zod'
import { deviceEntry, linkEntry, modelEntry, presetEntry, type UseEntry } from './entry-schemas.js'
import { sourcesOf, withSources } from './entry-sources.js'
import { invalidEntry } from './invalid-entry.js'
import {
  isLocatedMap,
  type Located,
  type LocatedMap,
  merged,
  nearest,
  placeText,
  plainOf,
  readLocatedYaml,
} from './located-yaml.js'
import type { Catalogue, DeviceSpec, DeviceUse, LinkSpec, ModelSpec, PresetSpec } from './specs.js'

const SECTIONS = ['devices', 'links', 'models', 'presets'] as const
type Section = (typeof SECTIONS)[number]

/** What one entry of a section is called in a message. */
const ENTRY_NAMES: Readonly<Record<Section, string>> = {
  devices: 'device',
  links: 'link',
  models: 'model',
  presets: 'preset',
}

type Layers = Readonly<Record<Section, Map<string, LocatedMap>>>

let builtin: Catalogue | undefined

/** What comes with Kvasir. */
export function builtinCatalogue(): Catalogue {
  builtin ??= loadCatalogue([])
  return builtin
}

/** The built-in catalogue with what the files, in this order, add and change. */
export function loadCatalogue(userFiles: readonly string[]): Catalogue {
  const layers: Layers = { devices: new Map(), links: new Map(), models: new Map(), presets: new Map() }
  for (const section of SECTIONS) {
    const file = fileURLToPath(new URL(`../data/${section}.yaml`, import.meta.url))
    addFile(layers, readFileSync(file, 'utf8'), `${section}.yaml`)
  }
  for (const file of userFiles) addFile(layers, readText(file), file)

  const links = readAll(layers, 'links', linkEntry, (id, entry, sources): LinkSpec => {
    return { id, ...entry, sources }
  })
  const devices = readAll(layers, 'devices', deviceEntry, (id, entry, sources, located): DeviceSpec => {
    if (!links.has(entry.link)) throw unknownId(located, ['link'], entry.link, 'links', [...links.keys()])
    const memories = Object.entries(entry.memories).map(([name, memory]) => ({ name, ...memory }))
    return { id, ...entry, memories, sources }
  })
  const models = readAll(layers, 'models', modelEntry, modelOf)
  const presets = readAll(layers, 'presets', presetEntry, (id, entry, sources, located): PresetSpec => {
    const uses = Object.entries(entry.devices).map(([deviceId, use]): [string, DeviceUse] => {
      const device = devices.get(deviceId)
      if (!device) throw unknownId(located, ['devices', deviceId], deviceId, 'devices', [...devices.keys()])
      if (device.compute[use.computePrecision] === undefined) {
        throw contradiction(
          located,
          ['devices', deviceId, 'computePrecision'],
          `${deviceId} has no rate for ${use.computePrecision}; it has ${Object.keys(device.compute).join(', ') || 'none'}`,
        )
      }
      const own = nearest(located, ['devices', deviceId]).located
      return [deviceId, useOf(use, sourcesOf(own))]
    })
    return { id, name: entry.name, devices: Object.fromEntries(uses), sources }
  })
  return { devices, links, models, presets }
}

function addFile(layers: Layers, text: string, file: string): void {
  for (const [section, content] of readLocatedYaml(text, file).entries) {
    if (!isSection(section)) {
      throw new InvalidInputError(
        `${placeText(content.at)}: there is no section ${section}${didYouMean(section, SECTIONS)}; there are ${SECTIONS.join(', ')}.`,
        { param: section },
      )
    }
    if (!isLocatedMap(content)) {
      if (content.scalar === null) continue
      throw new InvalidInputError(`${placeText(content.at)}: ${section} must be entries by id.`)
    }
    for (const [id, entry] of content.entries) {
      if (!isLocatedMap(entry)) {
        throw new InvalidInputError(
          `${placeText(entry.at)}: the ${ENTRY_NAMES[section]} ${id} must be a mapping of fields to values.`,
          { param: id },
        )
      }
      const sourced = withSources(entry)
      const before = layers[section].get(id)
      const now = before === undefined ? sourced : merged(before, sourced)
      if (isLocatedMap(now)) layers[section].set(id, now)
    }
  }
}

function readAll<S extends z.ZodObject, Spec>(
  layers: Layers,
  section: Section,
  schema: S,
  specOf: (
    id: string,
    entry: z.output<S>,
    sources: ReturnType<typeof sourcesOf>,
    located: LocatedMap,
  ) => Spec,
): ReadonlyMap<string, Spec> {
  const specs = new Map<string, Spec>()
  for (const id of layers[section].keys()) {
    const located = resolved(layers, section, id, [])
    const result = schema.safeParse(plainOf(located))
    if (!result.success)
      throw invalidEntry(`${ENTRY_NAMES[section]} ${id}`, located, result.error.issues, schema)
    specs.set(id, specOf(id, result.data, sourcesOf(located), located))
  }
  return specs
}

/** The entry upon the one that it is like. */
function resolved(layers: Layers, section: Section, id: string, via: readonly string[]): LocatedMap {
  const entry = layers[section].get(id)
  if (!entry) throw new InvalidInputError(`There is no ${ENTRY_NAMES[section]} ${id}.`, { param: id })
  const like = entry.entries.get('like')
  if (like === undefined) return entry
  const base = isLocatedMap(like) ? '' : String(like.scalar)
  if (!layers[section].has(base)) {
    throw unknownId(entry, ['like'], base, section, [...layers[section].keys()])
  }
  if (base === id || via.includes(base)) {
    throw contradiction(
      entry,
      ['like'],
      `${id} is like ${base}, which is like ${id}; one of them must stand for itself`,
    )
  }
  const own = new Map(entry.entries)
  own.delete('like')
  const whole = merged(resolved(layers, section, base, [...via, id]), { at: entry.at, entries: own })
  return isLocatedMap(whole) ? whole : entry
}

function modelOf(
  id: string,
  entry: z.output<typeof modelEntry>,
  sources: Readonly<Record<string, string>>,
  located: LocatedMap,
): ModelSpec {
  const { parameters, heads, kvHeads, experts, activeExperts } = entry
  const table = entry.vocabulary * entry.hidden
  const model: ModelSpec = {
    ...entry,
    id,
    activeParameters: entry.activeParameters ?? parameters,
    embeddingParameters: entry.embeddingParameters ?? (entry.tiedEmbeddings ? 0 : table),
    kvValuesPerToken: entry.kvValuesPerToken ?? 2 * entry.layers * kvHeads * entry.headDim,
    sources: {
      activeParameters: 'as parameters',
      embeddingParameters: 'arithmetic: vocabulary times hidden, 0 where the table is also the last product',
      kvValuesPerToken: 'arithmetic: 2 times layers, kvHeads and headDim',
      ...sources,
    },
  }
  const check = (holds: boolean, field: string, what: string) => {
    if (!holds) throw contradiction(located, [field], what)
  }
  check(heads % kvHeads === 0, 'kvHeads', `${heads} heads cannot share ${kvHeads}; it must divide heads`)
  check(
    model.activeParameters <= parameters,
    'activeParameters',
    `it must be at most parameters, ${parameters}`,
  )
  check(
    model.embeddingParameters + table < model.activeParameters,
    'parameters',
    `the embeddings alone are more: vocabulary times hidden is ${table}`,
  )
  check(
    (experts === undefined) === (activeExperts === undefined) && (activeExperts ?? 1) <= (experts ?? 1),
    experts === undefined ? 'activeExperts' : 'experts',
    'experts and activeExperts belong together, and no more are active than there are',
  )
  return model
}

function useOf({ decodeSpeedups, ...use }: UseEntry, sources: Readonly<Record<string, string>>): DeviceUse {
  if (decodeSpeedups === undefined) return { ...use, sources }
  const points = Object.entries(decodeSpeedups).map(([tokens, factor]) => {
    return { contextTokens: Number(tokens), factor }
  })
  points.sort((a, b) => a.contextTokens - b.contextTokens)
  return { ...use, decodeSpeedups: points, sources }
}

function unknownId(
  located: Located,
  path: readonly string[],
  id: string,
  section: Section,
  known: readonly string[],
): InvalidInputError {
  const at = placeText(nearest(located, path).located.at)
  const hint = didYouMean(id, known)
  const what = hint === '' ? `; there are ${known.join(', ')}` : hint
  return new InvalidInputError(
    `${at}: there is no ${ENTRY_NAMES[section]} ${id}${what}. Name one of them, or add ${id} under ${section}.`,
    { param: path.join('.') },
  )
}

function contradiction(located: Located, path: readonly string[], what: string): InvalidInputError {
  const at = placeText(nearest(located, path).located.at)
  return new InvalidInputError(`${at}: ${path.join('.')} does not fit: ${what}.`, { param: path.join('.') })
}

function isSection(text: string): text is Section {
  return SECTIONS.some((section) => section === text)
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new InvalidInputError(
      `The catalogue file ${file} cannot be read (${messageOf(error)}): give the path of a YAML file with --catalogue.`,
      {
        param: 'catalogue',
        cause: error,
      },
    )
  }
}
