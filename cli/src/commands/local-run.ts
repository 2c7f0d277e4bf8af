/** `kvasir run --local`: the cluster's engine, alone in this process; the text that the cluster must equal. */
import { randomBytes } from 'node:crypto'
import { createLocalGenerator } from '@kvasir/engine/local-generator'
import { EXACT, PAPER_QUANTISED } from '@kvasir/engine/numerics'
import { loadTextModel, type TextModel } from '@kvasir/engine/text/text-model'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { tpotMsOf, ttftMsOf } from '../client/generation.js'
import { say, withProgress } from '../terminal.js'
import { localAttention } from './local-attention.js'
import type { RunDocument, RunOptions } from './run.js'

/** @param write called with each piece of text as it is generated */
export async function runLocally(
  prompt: string,
  options: RunOptions & { readonly model: string },
  signal: AbortSignal,
  write: (text: string) => void,
): Promise<RunDocument> {
  if (options.corpus !== undefined || options.retrieve !== undefined) {
    const option = options.corpus === undefined ? '--retrieve' : '--corpus'
    throw new InvalidInputError(`With --local there is no cluster that has a corpus: leave ${option} out.`)
  }
  if (options.mergeLayers !== undefined) {
    throw new InvalidInputError(
      'With --local there is one device, which sends nothing: leave --merge-layers out.',
    )
  }
  const profile = options.profile === 'paper' ? 'paper' : 'exact'
  // Of the paper's devices it is the FPGA, which is what decodes.
  const numerics = profile === 'paper' ? PAPER_QUANTISED : EXACT
  const textModel = await loadTextModel(options.model)
  const promptTokens = encodePrompt(textModel, prompt)
  const attention = localAttention(options, textModel)
  const room = textModel.contextTokensMax - promptTokens.length
  if (room < 1) {
    throw new InvalidInputError(
      `The prompt has ${promptTokens.length} tokens, and the context of ${textModel.name} is ${textModel.contextTokensMax}: shorten it.`,
    )
  }
  const generator = await withProgress(createLocalGenerator({ model: options.model, numerics }), (seconds) =>
    say(`loading the model … ${seconds} s`),
  )
  try {
    const maxTokens = Math.min(options.maxTokens, room)
    const decoder = textModel.decoder()
    const tokens: number[] = []
    const tokenMs: number[] = []
    let text = ''
    const emit = (piece: string) => {
      text += piece
      if (piece !== '') write(piece)
    }
    const begin = performance.now()
    const generation = generator.generate(promptTokens, {
      sampling: {
        temperature: options.temperature,
        topP: options.topP,
        topK: 0,
        seed: options.seed === undefined ? randomBytes(8).readBigUInt64LE() : BigInt(options.seed),
        logprobs: false,
        topLogprobs: 0,
      },
      maxTokens,
      stopTokens: textModel.stopTokens,
      ...(attention === undefined ? {} : { attention }),
      signal,
    })
    let finishReason: 'stop' | 'length' = 'length'
    for await (const token of generation) {
      finishReason = token.finishReason ?? finishReason
      // The token that ends the answer is no part of it.
      if (token.finishReason === 'stop') break
      tokenMs.push(performance.now() - begin)
      tokens.push(token.id)
      emit(decoder.push(token.id))
    }
    emit(decoder.flush())
    return {
      requestId: null,
      traceId: null,
      text,
      tokens,
      finishReason,
      profile,
      numericsChanged: false,
      usage: { promptTokens: promptTokens.length, completionTokens: tokens.length, cachedTokens: 0 },
      placement: null,
      kv: null,
      retrieval: null,
      ttftMs: ttftMsOf({ tokenMs }) ?? null,
      tpotMs: tpotMsOf({ tokenMs }) ?? null,
      modelled: [],
    }
  } finally {
    await generator.close()
  }
}

function encodePrompt(textModel: TextModel, prompt: string): number[] {
  if (prompt === '') throw new InvalidInputError('The prompt is empty: say something.')
  return textModel.hasChatTemplate
    ? textModel.encodeChat([{ role: 'user', content: prompt }])
    : textModel.encode(prompt)
}
