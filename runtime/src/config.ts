/**
 * Settings of a process: defaults ← YAML file ← environment ← flags, checked once at
 * the edge and frozen.
 *
 * Every fault throws an InvalidInputError that names the setting and where its value
 * came from. A key that no setting has is a fault in the file and in the flags; in the
 * environment it is not, since other processes' variables live there too.
 *
 * A setting `kvPort` is `kvPort:` in the file, `KVASIR_KV_PORT` in the environment and
 * `--kv-port` on the command line. Lists are separated by commas in the environment and
 * repeated on the command line.
 */
import { readFileSync } from 'node:fs'
import { parse as parseYaml } from 'yaml'
import type { z } from 'zod'
import { didYouMean } from './did-you-mean.js'
import { InvalidInputError, messageOf } from './errors.js'
import { elementOf, flagOf, kindOf, valueOfText, variableOf } from './setting-kinds.js'

export interface ConfigSources {
  /** Path of a YAML file; a missing one is a fault. */
  readonly file?: string | undefined
  /** Usually `process.env`. */
  readonly environment?: Readonly<Record<string, string | undefined>>
  /** As from `parseFlags`; undefined values are skipped. */
  readonly flags?: object
}

/**
 * Joins the sources and checks them. Nested objects in the schema should be strict
 * objects, so that unknown keys in them are faults too.
 */
export function loadConfig<S extends z.ZodObject>(schema: S, sources: ConfigSources): z.output<S> {
  const values = new Map<string, { value: unknown; from: string }>()
  const known = new Set(Object.keys(schema.shape))
  const put = (key: string, value: unknown, from: string) => {
    if (value === undefined) return
    if (!known.has(key)) throw unknownSetting(key, from, known)
    values.set(key, { value, from })
  }

  if (sources.file !== undefined) {
    for (const [key, value] of Object.entries(readYaml(sources.file))) put(key, value, sources.file)
  }
  for (const [key, setting] of Object.entries(schema.shape)) {
    const variable = variableOf(key)
    const text = sources.environment?.[variable]
    if (text !== undefined && text !== '') put(key, valueOfVariable(text, setting), variable)
  }
  for (const [key, value] of Object.entries(sources.flags ?? {})) put(key, value, flagOf(key))

  const input = Object.fromEntries([...values].map(([key, { value }]) => [key, value]))
  const result = schema.safeParse(input)
  if (!result.success) throw invalidSetting(result.error.issues, values)
  return deepFreeze(result.data)
}

/**
 * The settings given as flags: `--name value`, `--name=value`, `--switch`,
 * `--no-switch`; a list's flag may be repeated. Values are of the schema's types.
 */
export function parseFlags(argv: readonly string[], schema: z.ZodObject): Record<string, unknown> {
  const keyByFlag = new Map(Object.keys(schema.shape).map((key) => [flagOf(key), key]))
  const flags: Record<string, unknown> = {}
  for (let i = 0; i < argv.length; i += 1) {
    const argument = argv[i] ?? ''
    const equals = argument.indexOf('=')
    const name = equals > 0 ? argument.slice(0, equals) : argument
    const negated = !keyByFlag.has(name) && name.startsWith('--no-')
    const key = keyByFlag.get(negated ? `--${name.slice(5)}` : name)
    const setting = key === undefined ? undefined : schema.shape[key]
    if (key === undefined || setting === undefined) throw unknownFlag(argument, [...keyByFlag.keys()])
    const kind = kindOf(setting)
    if (negated && kind !== 'boolean') throw unknownFlag(argument, [...keyByFlag.keys()])

    let text: string
    if (equals > 0) {
      text = argument.slice(equals + 1)
    } else if (kind === 'boolean') {
      text = negated ? 'false' : 'true'
    } else {
      i += 1
      const next = argv[i]
      if (next === undefined) throw new InvalidInputError(`${name} needs a value.`, { param: key })
      text = next
    }
    if (kind === 'list') {
      const list = flags[key]
      const element = valueOfText(text, elementOf(setting))
      flags[key] = Array.isArray(list) ? [...list, element] : [element]
    } else if (key in flags) {
      throw new InvalidInputError(`${name} is given more than once.`, { param: key })
    } else {
      flags[key] = valueOfText(text, kind)
    }
  }
  return flags
}

/** A process's settings from its command line (with `--config FILE`) and its environment. */
export function loadProcessConfig<S extends z.ZodObject>(
  schema: S,
  argv: readonly string[] = process.argv.slice(2),
  environment: Readonly<Record<string, string | undefined>> = process.env,
): z.output<S> {
  const rest: string[] = []
  let file = environment.KVASIR_CONFIG === '' ? undefined : environment.KVASIR_CONFIG
  for (let i = 0; i < argv.length; i += 1) {
    const argument = argv[i] ?? ''
    if (argument === '--config') {
      i += 1
      file = argv[i]
      if (file === undefined) throw new InvalidInputError('--config needs a value.', { param: 'config' })
    } else if (argument.startsWith('--config=')) {
      file = argument.slice('--config='.length)
    } else {
      rest.push(argument)
    }
  }
  return loadConfig(schema, { file, environment, flags: parseFlags(rest, schema) })
}

function valueOfVariable(text: string, setting: z.core.$ZodType): unknown {
  const kind = kindOf(setting)
  if (kind !== 'list') return valueOfText(text, kind)
  const element = elementOf(setting)
  return text.split(',').map((part) => valueOfText(part.trim(), element))
}

function readYaml(file: string): object {
  let parsed: unknown
  try {
    parsed = parseYaml(readFileSync(file, 'utf8'))
  } catch (error) {
    const reason = messageOf(error).split('\n')[0]
    throw new InvalidInputError(`Cannot read the settings file ${file}: ${reason}.`, {
      param: 'config',
      cause: error,
    })
  }
  if (parsed === null || parsed === undefined) return {}
  if (typeof parsed !== 'object' || Array.isArray(parsed)) {
    throw new InvalidInputError(`The settings file ${file} must be a mapping of settings to values.`, {
      param: 'config',
    })
  }
  return parsed
}

function invalidSetting(
  issues: readonly z.core.$ZodIssue[],
  values: ReadonlyMap<string, { readonly from: string }>,
): InvalidInputError {
  const issue = issues[0]
  const path = [...(issue?.path ?? [])].map(String)
  if (issue?.code === 'unrecognized_keys') path.push(issue.keys[0] ?? '')
  const key = path.join('.')
  const top = path[0] ?? ''
  const from = values.get(top)?.from
  const what = issue?.code === 'unrecognized_keys' ? 'no such setting' : uncapitalised(issue?.message ?? '')
  if (key === '') return new InvalidInputError(`The settings contradict each other: ${what}.`)
  if (from === undefined) {
    const ways = `${flagOf(top)}, ${variableOf(top)} or the settings file`
    return new InvalidInputError(`The setting ${key} is missing: set it by ${ways}.`, { param: key })
  }
  return new InvalidInputError(`The setting ${key} (from ${from}) is not valid: ${what}.`, { param: key })
}

function unknownSetting(key: string, from: string, known: ReadonlySet<string>): InvalidInputError {
  return new InvalidInputError(
    `${from} names a setting ${key} that does not exist${didYouMean(key, [...known])}.`,
    { param: key },
  )
}

function unknownFlag(argument: string, known: readonly string[]): InvalidInputError {
  const flag = argument.split('=')[0] ?? argument
  const hint = didYouMean(flag, known)
  const all = hint === '' ? `; there are ${known.join(', ')}` : hint
  return new InvalidInputError(`${flag} is not an option${all}.`, { param: flag })
}

function uncapitalised(text: string): string {
  const trimmed = text.replace(/\.$/, '')
  return trimmed.charAt(0).toLowerCase() + trimmed.slice(1)
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value) && !ArrayBuffer.isView(value)) {
    Object.freeze(value)
    for (const inner of Object.values(value)) deepFreeze(inner)
  }
  return value
}
