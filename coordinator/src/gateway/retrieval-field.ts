/**
 * The field `retrieval` of a completion, `{"corpus": "tales", "k": 4}`: documents are searched for with the
 * last user message, or the prompt's text, and put before it.
 */
import { z } from 'zod'
import { badRequest } from './api-error.js'
import type { Prompt } from './generation-plan.js'
import { withoutNulls } from './without-nulls.js'

const K_DEFAULT = 4
const K_MAX = 50

export interface RetrievalWish {
  readonly corpus: string
  /** Documents wanted, 1 to 50. */
  readonly k: number
}

export const retrievalField = z.preprocess(
  withoutNulls,
  z.strictObject({ corpus: z.string().min(1), k: z.int().min(1).max(K_MAX).optional() }),
)

export function retrievalWish(field: z.infer<typeof retrievalField> | undefined): RetrievalWish | undefined {
  return field && { corpus: field.corpus, k: field.k ?? K_DEFAULT }
}

/** What to search for. Throws ApiError (400) for a prompt without words to search with. */
export function retrievalQuery(prompt: Prompt): string {
  const param = prompt.kind === 'chat' ? 'messages' : 'prompt'
  if (prompt.kind === 'tokens') {
    throw badRequest(
      '"retrieval" needs a prompt of text to search with. Send the prompt as a string, not as token ids.',
      'invalid_value',
      param,
    )
  }
  const question =
    prompt.kind === 'text' ? prompt.text : prompt.messages.findLast(({ role }) => role === 'user')?.content
  if (question === undefined) {
    throw badRequest(
      '"retrieval" searches with the last user message, and there is none. Add one.',
      'invalid_value',
      param,
    )
  }
  if (question.trim() === '') {
    throw badRequest(
      '"retrieval" searches with the last user message, or the prompt, which is empty. Say something.',
      'empty_query',
      param,
    )
  }
  return question
}

/** The prompt with a text before its question. */
export function withContext(prompt: Prompt, text: string): Prompt {
  if (text === '' || prompt.kind === 'tokens') return prompt
  if (prompt.kind === 'text') return { kind: 'text', text: text + prompt.text }
  const last = prompt.messages.findLastIndex(({ role }) => role === 'user')
  const messages = prompt.messages.map((message, index) =>
    index === last ? { ...message, content: text + message.content } : message,
  )
  return { kind: 'chat', messages }
}
