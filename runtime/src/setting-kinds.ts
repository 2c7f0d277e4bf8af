/**
 * What a setting looks like as text: its flag, its environment variable, and how text
 * from either becomes a value of the setting's type.
 */
import type { z } from 'zod'

/** What text is turned into before the schema checks it. */
export type SettingKind = 'boolean' | 'number' | 'bigint' | 'list' | 'text'

/** `kvPort` → `--kv-port`. */
export function flagOf(key: string): string {
  return `--${words(key).join('-')}`
}

/** `kvPort` → `KVASIR_KV_PORT`. */
export function variableOf(key: string): string {
  return `KVASIR_${words(key).join('_').toUpperCase()}`
}

/** The kind of one setting, seen through optional, default and the like. */
export function kindOf(schema: z.core.$ZodType): SettingKind {
  let def: unknown = schema._zod.def
  // Wrappers nest a few deep at most; the bound only guards against a cycle.
  for (let depth = 0; depth < 16 && isRecord(def); depth += 1) {
    switch (def.type) {
      case 'boolean':
      case 'number':
      case 'bigint':
        return def.type
      case 'int':
        return 'number'
      case 'array':
        return 'list'
      default: {
        const inner = def.innerType ?? def.in
        if (!isRecord(inner) || !isRecord(inner._zod)) return 'text'
        def = inner._zod.def
      }
    }
  }
  return 'text'
}

/** The kind of a list's elements. */
export function elementOf(schema: z.core.$ZodType): SettingKind {
  let def: unknown = schema._zod.def
  for (let depth = 0; depth < 16 && isRecord(def); depth += 1) {
    const inner = def.type === 'array' ? def.element : (def.innerType ?? def.in)
    if (!isRecord(inner) || !isRecord(inner._zod)) return 'text'
    if (def.type === 'array') return kindOf(inner as unknown as z.core.$ZodType)
    def = inner._zod.def
  }
  return 'text'
}

/** Text as a value of the kind, or the text itself where it is none: the schema then says so. */
export function valueOfText(text: string, kind: SettingKind): unknown {
  switch (kind) {
    case 'boolean':
      if (/^(true|1|yes|on)$/i.test(text)) return true
      if (/^(false|0|no|off)$/i.test(text)) return false
      return text
    case 'number': {
      const value = Number(text)
      return text.trim() === '' || Number.isNaN(value) ? text : value
    }
    case 'bigint':
      return /^-?\d+$/.test(text) ? BigInt(text) : text
    default:
      return text
  }
}

function words(key: string): string[] {
  return key
    .replace(/([a-z0-9])([A-Z])/g, '$1 $2')
    .toLowerCase()
    .split(' ')
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}
