/**
 * From a plan to what the serving side needs: the prompt's tokens, within the context.
 */
import { randomBytes } from 'node:crypto'
import type { TextModel } from '@kvasir/engine/text/text-model'
import type { Sampling } from '@kvasir/proto/kvasir/inference/v1/inference'
import { type BlockHashes, NO_HASHES } from '../core/block-hashes.js'
import type { GenerationService, ProfileName } from '../generation.js'
import type { ModelTraits } from '../model-reports.js'
import type { TextModels } from '../models/text-models.js'
import { ApiError, badRequest } from './api-error.js'
import type { GenerationPlan } from './generation-plan.js'
import type { EncodedPrompt, PromptEncoder } from './prompt-encoder.js'

export interface PreparedPrompt {
  readonly promptTokens: readonly number[]
  /** Names of its full blocks; none where the request reuses nothing. */
  readonly blockHashes: BlockHashes
  /** As asked for, clamped to what the context leaves. */
  readonly maxTokens: number
}

/**
 * The model that a plan names, whose tokenizer may be waited for. Throws ApiError: 404 where there is none,
 * 503 where it is on its way, 400 for a chat that it has no template for.
 */
export async function modelOf(
  plan: GenerationPlan,
  textModels: TextModels,
  service: Pick<GenerationService, 'models'>,
): Promise<TextModel> {
  const model = textModels.get(plan.model) ?? (await textModels.find(plan.model))
  if (model === undefined) throw noSuchModel(plan.model, textModels, service)
  if (plan.prompt.kind === 'chat' && !model.hasChatTemplate) {
    throw badRequest(
      `The model "${model.name}" has no chat template. Use /v1/completions with it.`,
      'chat_template_missing',
      'model',
    )
  }
  return model
}

/** Why a model that a client named cannot be asked, and which can. */
export function noSuchModel(
  name: string,
  textModels: TextModels,
  service: Pick<GenerationService, 'models'>,
): ApiError {
  const devices = service.models().find((model) => model.name === name)?.devices ?? []
  const arriving = devices.filter(({ state }) => state === 'fetching' || state === 'loading')
  if (arriving.length > 0) {
    const where = arriving.map(({ deviceId }) => deviceId).join(', ')
    return new ApiError({
      status: 503,
      message: `The model "${name}" is on its way to ${where}. Try again in a moment.`,
      code: 'model_loading',
      param: 'model',
    })
  }
  const failed = devices.find(({ state }) => state === 'failed')
  const why = failed ? ` (${failed.deviceId} could not load it: ${failed.error})` : ''
  const names = textModels.names().map((known) => `"${known}"`)
  const next =
    names.length === 0
      ? 'No model is loaded: load one with POST /v1/models/load.'
      : `Use one of ${names.join(', ')}.`
  return new ApiError({
    status: 404,
    message: `There is no model "${name}" here${why}. ${next}`,
    code: 'model_not_found',
    param: 'model',
  })
}

/**
 * The numerics that a request is served in. Throws ApiError (404) for exact ones of a model that devices
 * have in others alone: no wait would bring them.
 */
export function profileOf(
  plan: GenerationPlan,
  model: TextModel,
  traits: ModelTraits | undefined,
  profileDefault: ProfileName,
): ProfileName {
  const profile = plan.profile ?? profileDefault
  if (profile !== 'exact' || !traits || traits.profiles.includes('exact')) return profile
  throw new ApiError({
    status: 404,
    message: `The model "${model.name}" is loaded in profile ${traits.profiles.join(', ')} alone, and this request wants exact. Ask for "profile": "${traits.profiles[0]}", or load it in exact with POST /v1/models/load.`,
    code: 'profile_not_loaded',
    param: 'profile',
  })
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
  if (plan.prompt.kind !== 'tokens') return encoder.encode(model.digest, plan.prompt, tenantSalt)
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
  return hasBlocks
    ? encoder.encode(model.digest, plan.prompt, tenantSalt)
    : { tokens, blockHashes: NO_HASHES }
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
