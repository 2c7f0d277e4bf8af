/**
 * The worker thread in which prompts are templated and tokenized and their blocks are named, so that a
 * long prompt never delays the tokens of other requests. One job at a time, in order of arrival.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { loadTextModel, type TextModel } from '@kvasir/engine/text/text-model'
import { KvasirError, UnavailableError } from '@kvasir/runtime/errors'
import { NO_HASHES } from '../core/block-hashes.js'
import { promptHashes } from './prompt-hashes.js'
import type {
  PromptJob,
  PromptMessage,
  PromptModel,
  PromptResult,
  PromptText,
  PromptWorkerData,
} from './prompt-worker-messages.js'

interface LoadedModel {
  readonly text: TextModel
  /** Bytes of the longest token, so that a text's bytes bound its tokens from below. */
  readonly tokenBytesMax: number
}

const { models: given }: PromptWorkerData = workerData
/** By digest. */
const models = new Map<string, Promise<LoadedModel>>()
for (const model of given) add(model)

let turn = Promise.resolve()
parentPort?.on('message', (message: PromptMessage) => {
  switch (message.type) {
    case 'add':
      add(message.model)
      break
    case 'drop':
      models.delete(message.digest)
      break
    case 'encode': {
      const model = models.get(message.digest)
      turn = turn.then(async () => {
        const result = await run(message, model)
        parentPort?.postMessage(result, 'tokens' in result ? buffersOf(result) : [])
      })
    }
  }
})

function add({ digest, source }: PromptModel): void {
  if (models.has(digest)) return
  const loading = load(source)
  models.set(digest, loading)
  // Told to whoever needs it.
  loading.catch(() => {})
}

async function load(source: PromptModel['source']): Promise<LoadedModel> {
  const text = await loadTextModel(source)
  return { text, tokenBytesMax: longestTokenBytes(text) }
}

async function run(
  { id, digest, prompt, tenantSalt }: PromptJob,
  model: Promise<LoadedModel> | undefined,
): Promise<PromptResult> {
  try {
    if (model === undefined) throw new UnavailableError('This model has just been unloaded.')
    const { text, tokenBytesMax } = await model
    const tokensAtLeast = Math.ceil(promptBytes(prompt) / tokenBytesMax)
    // Megabytes of text would keep the worker busy for seconds, only to be refused afterwards.
    if (tokensAtLeast > text.contextTokensMax) return { id, tokensAtLeast }
    const tokens = Uint32Array.from(tokensOf(prompt, text))
    const blockHashes = tenantSalt ? promptHashes(digest, tenantSalt, tokens) : NO_HASHES
    return { id, tokens, blockHashes }
  } catch (thrown) {
    const { code, message, param } = KvasirError.from(thrown)
    return { id, error: { code, message, param } }
  }
}

/** They move; the one that stands for no blocks stays. */
function buffersOf({ tokens, blockHashes }: Extract<PromptResult, { tokens: unknown }>): ArrayBuffer[] {
  return blockHashes.length > 0 ? [tokens.buffer, blockHashes.buffer] : [tokens.buffer]
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
