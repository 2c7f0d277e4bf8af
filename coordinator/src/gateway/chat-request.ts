/**
 * `POST /v1/chat/completions`: from a JSON body to a plan.
 */
import { z } from 'zod'
import { badRequest } from './api-error.js'
import { type ChatMessage, type GenerationPlan, sharedPlan } from './generation-plan.js'
import { parseFields, sharedShape, TOP_LOGPROBS_MAX, textField } from './request-fields.js'
import { withoutNulls } from './without-nulls.js'

const MESSAGES_MAX = 4_096

const content = z.union(
  [textField, z.array(z.strictObject({ type: z.literal('text'), text: textField })).min(1)],
  { error: 'expected a string or an array of parts of type "text"' },
)

const message = z.strictObject({
  role: z.enum(['system', 'developer', 'user', 'assistant']),
  content,
})

const chatSchema = z.strictObject({
  ...sharedShape,
  messages: z.array(z.preprocess(withoutNulls, message)).min(1).max(MESSAGES_MAX),
  max_completion_tokens: z.int().min(1).optional(),
  logprobs: z.boolean().optional(),
  top_logprobs: z.int().min(0).max(TOP_LOGPROBS_MAX).optional(),
})

export function parseChatRequest(body: unknown): GenerationPlan {
  const fields = parseFields(chatSchema, body)
  if (fields.top_logprobs !== undefined && fields.logprobs !== true) {
    throw badRequest('"top_logprobs" needs "logprobs": true.', 'invalid_value', 'top_logprobs')
  }
  if (
    fields.max_tokens !== undefined &&
    fields.max_completion_tokens !== undefined &&
    fields.max_tokens !== fields.max_completion_tokens
  ) {
    throw badRequest(
      '"max_tokens" and "max_completion_tokens" differ. Send one of them.',
      'invalid_value',
      'max_completion_tokens',
    )
  }
  const messages = fields.messages.map(toChatMessage)
  if (messages.every(({ content }) => content === '')) {
    throw badRequest('Every message is empty. Say something.', 'empty_prompt', 'messages')
  }
  return {
    ...sharedPlan(fields),
    prompt: { kind: 'chat', messages },
    promptParam: 'messages',
    maxTokens: fields.max_completion_tokens ?? fields.max_tokens,
    logprobs: fields.logprobs ?? false,
    topLogprobs: fields.top_logprobs ?? 0,
  }
}

/** `developer` is the newer name of `system`; templates know only the older one. */
function toChatMessage({ role, content }: z.infer<typeof message>): ChatMessage {
  return {
    role: role === 'developer' ? 'system' : role,
    content: typeof content === 'string' ? content : content.map((part) => part.text).join(''),
  }
}
