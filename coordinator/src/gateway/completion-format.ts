/**
 * Answers of `POST /v1/completions`.
 */
import {
  type AnswerFormat,
  type AnswerIdentity,
  type AnswerOptions,
  answerId,
  finiteLogprob,
  STREAM_END,
  type TokenTexts,
  tokenIds,
} from './answer.js'
import type { PlacedToken } from './text-assembler.js'

export function completionFormat(
  identity: AnswerIdentity,
  options: AnswerOptions,
  texts: TokenTexts,
): AnswerFormat {
  const head = {
    id: answerId('cmpl', identity.requestId),
    object: 'text_completion',
    created: identity.createdSeconds,
    model: identity.model,
  }
  // Nearly every chunk is `before` + the text + `after`: no object is built for a token.
  const before = `data: ${JSON.stringify(head).slice(0, -1)},"choices":[{"index":0,"text":`
  const usageNull = options.includeUsage ? ',"usage":null' : ''
  const after = `,"logprobs":null,"finish_reason":null}]${usageNull}}\n\n`
  const hasTokens = options.logprobs || options.returnTokenIds

  function choice(text: string, tokens: readonly PlacedToken[], reason: string | null) {
    return {
      index: 0,
      text,
      logprobs: options.logprobs ? legacyLogprobs(tokens, options.topLogprobs, texts) : null,
      finish_reason: reason,
      ...(options.returnTokenIds ? { token_ids: tokenIds(tokens) } : {}),
    }
  }

  function chunk(choices: object[], rest: object = {}): string {
    const usage = options.includeUsage ? { usage: null } : {}
    return `data: ${JSON.stringify({ ...head, choices, ...usage, ...rest })}\n\n`
  }

  return {
    id: head.id,
    opening: '',
    piece({ text, tokens }) {
      return hasTokens ? chunk([choice(text, tokens, null)]) : before + JSON.stringify(text) + after
    },
    closing({ reason, usage, extension }) {
      const last = chunk([{ index: 0, text: '', logprobs: null, finish_reason: reason }], {
        kvasir: extension,
      })
      return last + (options.includeUsage ? chunk([], { usage }) : '') + STREAM_END
    },
    whole({ text, tokens }, { reason, usage, extension }) {
      return { ...head, choices: [choice(text, tokens, reason)], usage, kvasir: extension }
    },
  }
}

/** The older shape: parallel arrays; offsets count UTF-16 units from the answer's start. */
function legacyLogprobs(tokens: readonly PlacedToken[], topLogprobs: number, texts: TokenTexts) {
  return {
    tokens: tokens.map(({ token }) => texts.tokenText(token.id)),
    token_logprobs: tokens.map(({ token }) => finiteLogprob(token.logprob)),
    top_logprobs:
      topLogprobs === 0
        ? null
        : tokens.map(({ token }) =>
            Object.fromEntries(
              [...token.top.slice(0, topLogprobs), token].map(({ id, logprob }) => [
                texts.tokenText(id),
                finiteLogprob(logprob),
              ]),
            ),
          ),
    text_offset: tokens.map(({ textOffset }) => textOffset),
  }
}
