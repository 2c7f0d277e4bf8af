/**
 * `POST /v1/completions`: from a JSON body to a plan.
 */
import { z } from 'zod'
import { badRequest } from './api-error.js'
import { type GenerationPlan, type Prompt, sharedPlan } from './generation-plan.js'
import { parseFields, sharedShape, TOP_LOGPROBS_MAX, textField } from './request-fields.js'

/** What OpenAI's endpoint generates when not told. */
const MAX_TOKENS_DEFAULT = 16

const completionSchema = z.strictObject({
  ...sharedShape,
  prompt: z.union([textField, z.array(textField), z.array(z.int().min(0))], {
    error: 'expected a string, an array with one string, or an array of token ids',
  }),
  logprobs: z.int().min(0).max(TOP_LOGPROBS_MAX).optional(),
})

export function parseCompletionRequest(body: unknown): GenerationPlan {
  const fields = parseFields(completionSchema, body)
  return {
    ...sharedPlan(fields),
    prompt: toPrompt(fields.prompt),
    promptParam: 'prompt',
    maxTokens: fields.max_tokens ?? MAX_TOKENS_DEFAULT,
    logprobs: fields.logprobs !== undefined,
    topLogprobs: fields.logprobs ?? 0,
  }
}

function toPrompt(field: string | string[] | number[]): Prompt {
  if (typeof field === 'string') return textPrompt(field)
  const [first] = field
  if (first === undefined) throw emptyPrompt()
  if (typeof first === 'number') return { kind: 'tokens', tokens: field.map(Number) }
  if (field.length > 1) {
    throw badRequest(
      'Several prompts in one request are not supported. Send one request each.',
      'unsupported_parameter',
      'prompt',
    )
  }
  return textPrompt(first)
}

function textPrompt(text: string): Prompt {
  if (text === '') throw emptyPrompt()
  return { kind: 'text', text }
}

function emptyPrompt() {
  return badRequest('The prompt is empty. Give at least one character or token.', 'empty_prompt', 'prompt')
}
