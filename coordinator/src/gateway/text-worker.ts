/**
 * The worker thread in which prompts are templated and tokenized and their blocks are named, so that a
 * long prompt never delays the tokens of other requests. One job at a time, in order of arrival.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { loadTextModel, type TextModel } from '@kvasir/engine/text/text-model'
import { InternalError, KvasirError } from '@kvasir/runtime/errors'
import { promptHashes } from './prompt-hashes.js'
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

function run({ id, model, prompt, tenantSalt }: PromptJob): PromptResult {
  try {
    const loaded = models.get(model)
    if (loaded === undefined) throw new InternalError(`The text worker has no model "${model}".`)
    const { text, tokenBytesMax } = loaded
    const tokensAtLeast = Math.ceil(promptBytes(prompt) / tokenBytesMax)
    // Megabytes of text would keep the worker busy for seconds, only to be refused afterwards.
    if (tokensAtLeast > text.contextTokensMax) return { id, tokensAtLeast }
    const tokens = Uint32Array.from(tokensOf(prompt, text))
    const blockHashes = tenantSalt ? promptHashes(text.digest, tenantSalt, tokens) : []
    return { id, tokens, blockHashes }
  } catch (thrown) {
    const { code, message, param } = KvasirError.from(thrown)
    return { id, error: { code, message, param } }
  }
}

function tokensOf(prompt: PromptText, text: TextModel): ArrayLike<number> {
  switch (prompt.kind) {
    case 'text':
      return text.encode(prompt.text)
    case 'chat':
      return text.encodeChat(prompt.messages)
    case 'tokens':
      return prompt.tokens
  }
}

function promptBytes(prompt: PromptText): number {
  switch (prompt.kind) {
    case 'text':
      return Buffer.byteLength(prompt.text)
    case 'chat':
      return prompt.messages.reduce((bytes, { content }) => bytes + Buffer.byteLength(content), 0)
    case 'tokens':
      return prompt.tokens.length
  }
}

function longestTokenBytes(text: TextModel): number {
  let longest = 1
  for (let id = 0; id < text.vocabularySize; id++) longest = Math.max(longest, text.tokenBytes(id).length)
  return longest
}
