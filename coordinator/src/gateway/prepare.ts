/**
 * From a plan to what the serving side needs: the prompt's tokens, within the context.
 */
import { randomBytes } from 'node:crypto'
import type { TextModel } from '@kvasir/engine/text/text-model'
import type { Sampling } from '@kvasir/proto/kvasir/inference/v1/inference'
import { ApiError, badRequest } from './api-error.js'
import type { GenerationPlan } from './generation-plan.js'
import type { EncodedPrompt, PromptEncoder } from './prompt-encoder.js'

export interface PreparedPrompt {
  readonly promptTokens: readonly number[]
  /** Names of its full blocks; none where the request reuses nothing. */
  readonly blockHashes: readonly string[]
  /** As asked for, clamped to what the context leaves. */
  readonly maxTokens: number
}

export function modelOf(plan: GenerationPlan, models: ReadonlyMap<string, TextModel>): TextModel {
  const model = models.get(plan.model)
  if (model === undefined) {
    const names = [...models.keys()].map((name) => `"${name}"`).join(', ')
    throw new ApiError({
      status: 404,
      message: `There is no model "${plan.model}" here. Use one of ${names}.`,
      code: 'model_not_found',
      param: 'model',
    })
  }
  if (plan.prompt.kind === 'chat' && !model.hasChatTemplate) {
    throw badRequest(
      `The model "${model.name}" has no chat template. Use /v1/completions with it.`,
      'chat_template_missing',
      'model',
    )
  }
  return model
}

export async function preparePrompt(
  plan: GenerationPlan,
  model: TextModel,
  encoder: PromptEncoder,
  tenantSalt: Uint8Array,
): Promise<PreparedPrompt> {
  const encoded = await encode(plan, model, encoder, plan.cachePrompt ? tenantSalt : undefined)
  const context = model.contextTokensMax
  const tooMany = 'tokensAtLeast' in encoded || encoded.tokens.length >= context
  if (tooMany) {
    const count = 'tokensAtLeast' in encoded ? `at least ${encoded.tokensAtLeast}` : encoded.tokens.length
    throw badRequest(
      `This model's context is ${context} tokens, and the prompt has ${count}: no room is left for an answer. Shorten the prompt.`,
      'context_length_exceeded',
      plan.promptParam,
    )
  }
  if (encoded.tokens.length === 0) {
    throw badRequest('The prompt has no tokens. Say something.', 'empty_prompt', plan.promptParam)
  }
  const room = context - encoded.tokens.length
  const maxTokens = Math.min(plan.maxTokens ?? room, room)
  return { promptTokens: encoded.tokens, blockHashes: encoded.blockHashes, maxTokens }
}

async function encode(
  plan: GenerationPlan,
  model: TextModel,
  encoder: PromptEncoder,
  tenantSalt: Uint8Array | undefined,
): Promise<EncodedPrompt> {
  if (plan.prompt.kind !== 'tokens') return encoder.encode(model.name, plan.prompt, tenantSalt)
  const { tokens } = plan.prompt
  const foreign = tokens.find((id) => id >= model.vocabularySize)
  if (foreign !== undefined) {
    throw badRequest(
      `Token ${foreign} does not exist: the vocabulary of "${model.name}" has ${model.vocabularySize} tokens.`,
      'invalid_value',
      plan.promptParam,
    )
  }
  // What will be refused, or has no blocks to name, need not wait for the worker.
  const hasBlocks = tenantSalt !== undefined && tokens.length < model.contextTokensMax
  return hasBlocks ? encoder.encode(model.name, plan.prompt, tenantSalt) : { tokens, blockHashes: [] }
}

export function samplingOf(plan: GenerationPlan, model: TextModel): Sampling {
  return {
    temperature: plan.temperature,
    topP: plan.topP,
    topK: plan.topK,
    seed: plan.seed === undefined ? randomBytes(8).readBigUInt64LE() : BigInt.asUintN(64, BigInt(plan.seed)),
    stopTokens: plan.ignoreEos ? [] : [...model.stopTokens],
    logprobs: plan.logprobs,
    topLogprobs: plan.topLogprobs,
  }
}
