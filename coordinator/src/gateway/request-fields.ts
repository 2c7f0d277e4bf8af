/**
 * The fields that chat and text completions share, and the rule for all others: a field
 * that would change the answer and is not implemented is refused by name. Fields that
 * cannot change it (`metadata`, a penalty of 0, …) are accepted and have no effect.
 */
import { z } from 'zod'
import { MERGE_LAYERS } from '../generation.js'
import { priorityField, sloField } from './admission-fields.js'
import { badRequest } from './api-error.js'
import { attentionField } from './attention-field.js'
import { retrievalField } from './retrieval-field.js'
import { withoutNulls } from './without-nulls.js'

const SEED_MAX = Number.MAX_SAFE_INTEGER
export const TOP_LOGPROBS_MAX = 20
const STOPS_MAX = 4

/** Half a surrogate pair cannot be written in UTF-8, so no model ever saw one. */
export const textField = z.string().refine((text) => !/\p{Surrogate}/u.test(text), {
  error: 'expected valid Unicode, found half a surrogate pair',
})

const stopText = textField.min(1)

export const profileField = z.enum(['exact', 'paper'])

/** How KV is sent from the prefilling device to the decoding one. */
const kvField = z.preprocess(
  withoutNulls,
  z.strictObject({
    merge_layers: z.literal(MERGE_LAYERS, { error: `expected one of ${MERGE_LAYERS.join(', ')}` }).optional(),
  }),
)

/** What both kinds of completion take. Absent and null mean the same (nulls are removed before). */
export const sharedShape = {
  model: z.string().min(1),
  stream: z.boolean().optional(),
  stream_options: z
    .strictObject({ include_usage: z.boolean().optional(), include_obfuscation: z.literal(false).optional() })
    .optional(),
  temperature: z.number().min(0).max(2).optional(),
  top_p: z.number().gt(0).max(1).optional(),
  top_k: z.int().min(0).max(0xffff_ffff).optional(),
  seed: z.int().min(-SEED_MAX).max(SEED_MAX).optional(),
  stop: z
    .union([stopText, z.array(stopText).max(STOPS_MAX)], {
      error: `expected a non-empty string or an array of at most ${STOPS_MAX} of them`,
    })
    .optional(),
  max_tokens: z.int().min(1).optional(),
  ignore_eos: z.boolean().optional(),
  return_token_ids: z.boolean().optional(),
  cache_prompt: z.boolean().optional(),
  profile: profileField.optional(),
  kv: kvField.optional(),
  attention: attentionField.optional(),
  retrieval: retrievalField.optional(),
  priority: priorityField.optional(),
  slo: sloField.optional(),
  user: z.string().optional(),
  metadata: z.record(z.string(), z.string()).optional(),
  safety_identifier: z.string().optional(),
  prompt_cache_key: z.string().optional(),
} as const

type Neutral = (value: unknown) => boolean

const isEmptyList: Neutral = (value) => Array.isArray(value) && value.length === 0
const isOneOf =
  (...values: unknown[]): Neutral =>
  (value) =>
    values.includes(value)

/** Fields of OpenAI's API that are not implemented, with the values that ask for nothing. */
const UNSUPPORTED: Readonly<Record<string, Neutral>> = {
  n: isOneOf(1),
  best_of: isOneOf(1),
  echo: isOneOf(false),
  suffix: isOneOf(''),
  presence_penalty: isOneOf(0),
  frequency_penalty: isOneOf(0),
  logit_bias: (value) => typeof value === 'object' && value !== null && Object.keys(value).length === 0,
  response_format: (value) =>
    typeof value === 'object' && value !== null && 'type' in value && value.type === 'text',
  tools: isEmptyList,
  tool_choice: isOneOf('none', 'auto'),
  parallel_tool_calls: (value) => typeof value === 'boolean',
  functions: isEmptyList,
  function_call: isOneOf('none', 'auto'),
  modalities: (value) => Array.isArray(value) && value.every((item) => item === 'text'),
  service_tier: isOneOf('auto', 'default'),
  store: isOneOf(false),
  audio: () => false,
  prediction: () => false,
  reasoning_effort: isOneOf('none'),
  verbosity: () => false,
  web_search_options: () => false,
}

/**
 * Checks a body against `schema`, which must be a strict object: first refuses what is not
 * supported by name, then reports the first wrong field with its path as `param`.
 */
export function parseFields<Schema extends z.ZodObject>(schema: Schema, body: unknown): z.infer<Schema> {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw badRequest('The request body must be a JSON object.', 'invalid_type')
  }
  const fields: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(body)) {
    if (value === null) continue
    if (Object.hasOwn(schema.shape, name)) {
      fields[name] = value
      continue
    }
    const isNeutral = Object.hasOwn(UNSUPPORTED, name) ? UNSUPPORTED[name] : undefined
    if (isNeutral === undefined) {
      throw badRequest(`Unknown field "${name}". Remove it from the request.`, 'unknown_parameter', name)
    }
    if (!isNeutral(value)) {
      throw badRequest(
        `"${name}" with this value is not supported here. Remove it from the request.`,
        'unsupported_parameter',
        name,
      )
    }
  }
  const parsed = schema.safeParse(fields)
  if (parsed.success) return parsed.data
  throw fieldError(parsed.error, fields)
}

function fieldError(error: z.ZodError, fields: Record<string, unknown>) {
  const issue = error.issues[0]
  if (issue === undefined) return badRequest('The request body is invalid.', 'invalid_value')
  if (issue.code === 'unrecognized_keys') {
    const name = pathText([...issue.path, issue.keys[0] ?? ''])
    return badRequest(
      `"${name}" is not supported here. Remove it from the request.`,
      'unsupported_parameter',
      name,
    )
  }
  const param = pathText(issue.path)
  if (isMissing(issue, fields)) {
    return badRequest(`The field "${param}" is missing.`, 'missing_required_parameter', param)
  }
  const detail = issue.message.replace(/^Invalid (input|option): /, '').replace(/^Too (small|big): /, '')
  return badRequest(
    `Invalid value for "${param}": ${detail}.`,
    issue.code === 'invalid_type' ? 'invalid_type' : 'invalid_value',
    param,
  )
}

/** A field that is there and of a wrong type is not missing. */
function isMissing({ path }: z.core.$ZodIssue, fields: Record<string, unknown>): boolean {
  let value: unknown = fields
  for (const step of path) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, step)) return true
    value = Reflect.get(value, step)
  }
  // Nulls inside a field mean the same as leaving it out.
  return value === undefined || value === null
}

/** ['messages', 0, 'role'] → messages[0].role */
function pathText(path: readonly PropertyKey[]): string {
  let text = ''
  for (const step of path) {
    if (typeof step === 'number') text += `[${step}]`
    else text += text === '' ? String(step) : `.${String(step)}`
  }
  return text
}
