/**
 * Answers of `POST /v1/chat/completions`.
 */
import type { Alternative } from '@kvasir/proto/kvasir/inference/v1/inference'
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

export function chatFormat(
  identity: AnswerIdentity,
  options: AnswerOptions,
  texts: TokenTexts,
): AnswerFormat {
  const head = {
    id: answerId('chatcmpl', identity.requestId),
    created: identity.createdSeconds,
    model: identity.model,
  }
  const chunkHead = { ...head, object: 'chat.completion.chunk' }
  // Nearly every chunk is `before` + the text + `after`: no object is built for a token.
  const before = `data: ${JSON.stringify(chunkHead).slice(0, -1)},"choices":[{"index":0,"delta":{"content":`
  const usageNull = options.includeUsage ? ',"usage":null' : ''
  const after = `},"logprobs":null,"finish_reason":null}]${usageNull}}\n\n`
  const hasTokens = options.logprobs || options.returnTokenIds

  function logprobs(tokens: readonly PlacedToken[]) {
    if (!options.logprobs) return null
    return {
      content: tokens.map((placed) => tokenLogprob(placed, options.topLogprobs, texts)),
      refusal: null,
    }
  }

  function chunk(choices: object[], rest: object = {}): string {
    const usage = options.includeUsage ? { usage: null } : {}
    return `data: ${JSON.stringify({ ...chunkHead, choices, ...usage, ...rest })}\n\n`
  }

  return {
    id: head.id,
    opening: chunk([
      {
        index: 0,
        delta: { role: 'assistant', content: '', refusal: null },
        logprobs: null,
        finish_reason: null,
      },
    ]),
    piece({ text, tokens }) {
      if (!hasTokens) return before + JSON.stringify(text) + after
      const choice = {
        index: 0,
        delta: { content: text },
        logprobs: logprobs(tokens),
        finish_reason: null,
        ...(options.returnTokenIds ? { token_ids: tokenIds(tokens) } : {}),
      }
      return chunk([choice])
    },
    closing({ reason, usage, extension }) {
      const last = chunk([{ index: 0, delta: {}, logprobs: null, finish_reason: reason }], {
        kvasir: extension,
      })
      return last + (options.includeUsage ? chunk([], { usage }) : '') + STREAM_END
    },
    whole({ text, tokens }, { reason, usage, extension }) {
      const choice = {
        index: 0,
        message: { role: 'assistant', content: text, refusal: null },
        logprobs: logprobs(tokens),
        finish_reason: reason,
        ...(options.returnTokenIds ? { token_ids: tokenIds(tokens) } : {}),
      }
      return { ...head, object: 'chat.completion', choices: [choice], usage, kvasir: extension }
    },
  }
}

function tokenLogprob({ token }: PlacedToken, topLogprobs: number, texts: TokenTexts) {
  return {
    ...alternative(token, texts),
    top_logprobs: token.top.slice(0, topLogprobs).map((top) => alternative(top, texts)),
  }
}

function alternative({ id, logprob }: Alternative, texts: TokenTexts) {
  return {
    token: texts.tokenText(id),
    logprob: finiteLogprob(logprob),
    bytes: Array.from(texts.tokenBytes(id)),
  }
}
