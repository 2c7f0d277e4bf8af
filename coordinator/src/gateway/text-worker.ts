/**
 * The worker thread in which prompts are templated and tokenized, so that a long prompt
 * never delays the tokens of other requests. One job at a time, in order of arrival.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { loadTextModel, type TextModel } from '@kvasir/engine/text/text-model'
import { InternalError, KvasirError } from '@kvasir/runtime/errors'
import type { PromptJob, PromptResult, PromptText, PromptWorkerData } from './prompt-worker-messages.js'

interface LoadedModel {
  readonly text: TextModel
  /** Bytes of the longest token, so that a text's bytes bound its tokens from below. */
  readonly tokenBytesMax: number
}

const { models: specs }: PromptWorkerData = workerData
const models = new Map<string, LoadedModel>()
for (const spec of specs) {
  const text = await loadTextModel(spec)
  models.set(text.name, { text, tokenBytesMax: longestTokenBytes(text) })
}

parentPort?.on('message', (job: PromptJob) => {
  const result = run(job)
  parentPort?.postMessage(result, 'tokens' in result ? [result.tokens.buffer] : [])
})

function run({ id, model, prompt }: PromptJob): PromptResult {
  try {
    const loaded = models.get(model)
    if (loaded === undefined) throw new InternalError(`The text worker has no model "${model}".`)
    const { text, tokenBytesMax } = loaded
    const tokensAtLeast = Math.ceil(promptBytes(prompt) / tokenBytesMax)
    // Megabytes of text would keep the worker busy for seconds, only to be refused afterwards.
    if (tokensAtLeast > text.contextTokensMax) return { id, tokensAtLeast }
    const tokens = prompt.kind === 'text' ? text.encode(prompt.text) : text.encodeChat(prompt.messages)
    return { id, tokens: Uint32Array.from(tokens) }
  } catch (thrown) {
    const { code, message, param } = KvasirError.from(thrown)
    return { id, error: { code, message, param } }
  }
}

function promptBytes(prompt: PromptText): number {
  return prompt.kind === 'text'
    ? Buffer.byteLength(prompt.text)
    : prompt.messages.reduce((bytes, { content }) => bytes + Buffer.byteLength(content), 0)
}

function longestTokenBytes(text: TextModel): number {
  let longest = 1
  for (let id = 0; id < text.vocabularySize; id++) longest = Math.max(longest, text.tokenBytes(id).length)
  return longest
}
