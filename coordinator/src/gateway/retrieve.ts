/**
 * Retrieval for a completion: searches, puts what fits before the question, and says what was used.
 */
import type { TextModel } from '@kvasir/engine/text/text-model'
import { KvasirError } from '@kvasir/runtime/errors'
import type { RetrievalReport } from '../generation.js'
import type { Corpora } from '../retrieval/corpora.js'
import { withApplyTime } from '../retrieval/search-stages.js'
import type { AnswerExtension } from './answer.js'
import { ApiError } from './api-error.js'
import type { GenerationPlan } from './generation-plan.js'
import { fitDocuments } from './prompt-documents.js'
import type { PromptEncoder } from './prompt-encoder.js'
import { type RetrievalWish, retrievalQuery, withContext } from './retrieval-field.js'

/** Kept for the answer where the request does not say how long it may be; less where the context is small. */
const ANSWER_TOKENS = 256
const ANSWER_SHARE = 0.25

export interface Retrieved {
  /** The plan with the documents in its prompt. */
  readonly plan: GenerationPlan
  readonly report: RetrievalReport
  readonly extension: NonNullable<AnswerExtension['retrieval']>
}

export interface RetrieveOptions {
  readonly corpora: Corpora
  readonly encoder: PromptEncoder
  readonly model: TextModel
  readonly tenantSalt: Uint8Array
  /** Where prompts are put together. */
  readonly coordinatorId: string
  readonly signal: AbortSignal
}

/** Throws ApiError (404) for a corpus that is not there or empty; what a search throws. */
export async function retrieve(
  plan: GenerationPlan,
  wish: RetrievalWish,
  options: RetrieveOptions,
): Promise<Retrieved> {
  const { corpora, model, coordinatorId, signal } = options
  const query = retrievalQuery(plan.prompt)
  const ref = { name: wish.corpus, tenantSalt: Buffer.from(options.tenantSalt) }
  const found = await corpora
    .search(ref, query, { k: wish.k, applyAt: coordinatorId, signal })
    .catch((thrown: unknown) => {
      throw corpusError(thrown, 'retrieval.corpus')
    })
  if (found.corpusDocuments === 0) {
    throw new ApiError({
      status: 404,
      message: `The corpus "${wish.corpus}" is empty. Add documents to it first.`,
      code: 'corpus_empty',
      param: 'retrieval.corpus',
    })
  }
  const startedMs = performance.now()
  const context = model.contextTokensMax
  const answerTokens = plan.maxTokens ?? Math.min(ANSWER_TOKENS, Math.floor(context * ANSWER_SHARE))
  const fitted = await fitDocuments(found.documents, context - answerTokens, async (text) => {
    const prompt = withContext(plan.prompt, text)
    if (prompt.kind === 'tokens') return Number.POSITIVE_INFINITY
    const encoded = await options.encoder.encode(model.digest, prompt, undefined)
    return 'tokens' in encoded ? encoded.tokens.length : encoded.tokensAtLeast
  })
  const used = found.documents.slice(0, fitted.count)
  return {
    plan: { ...plan, prompt: withContext(plan.prompt, fitted.text) },
    report: {
      corpus: wish.corpus,
      k: wish.k,
      documents: used.map(({ id, title, score }) => ({ id, title, score })),
      stages: withApplyTime(found.stages, performance.now() - startedMs),
    },
    extension: {
      corpus: wish.corpus,
      documents: used.map(({ id, title, score }, index) => ({
        id,
        title,
        score,
        truncated: fitted.isCut && index === used.length - 1,
      })),
      omitted: found.documents.length - used.length,
    },
  }
}

/** Retrieval's errors with codes of their own; `param` is the field that named the corpus. */
export function corpusError(thrown: unknown, param?: string): unknown {
  if (!(thrown instanceof KvasirError)) return thrown
  const { code, message } = thrown
  if (code === 'not_found') return new ApiError({ status: 404, message, code: 'corpus_not_found', param })
  if (code === 'already_exists') return new ApiError({ status: 409, message, code: 'corpus_exists', param })
  return thrown
}
