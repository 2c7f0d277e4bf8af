/**
 * The gateway's side of the text worker: turns prompts into tokens, off the main thread.
 *
 * Invariants: at most `jobsMax` prompts wait, more are refused before any work; every wait
 * has a deadline; a worker that died, or hangs, fails its jobs and is started anew for the next one.
 */
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { type Deferred, deferred, withDeadline } from '@kvasir/runtime/deferred'
import { errorOf, messageOf, OverloadedError, UnavailableError } from '@kvasir/runtime/errors'
import type { BlockHashes } from '../core/block-hashes.js'
import type { TextModelUser } from '../models/text-models.js'
import type {
  PromptMessage,
  PromptModel,
  PromptResult,
  PromptText,
  PromptWorkerData,
} from './prompt-worker-messages.js'

/** The built file, whether this one runs from src/ or from dist/. */
const WORKER_FILE = fileURLToPath(new URL('../../dist/gateway/text-worker.js', import.meta.url))
const JOB_TIMEOUT_MS = 10_000
/**
 * A worker that has work and is silent for so long hangs, such as in a chat template that never ends: a model brings
 * its own. Far longer than the largest tokenizers take to load.
 */
const SILENCE_MS_MAX = 60_000

/**
 * Tokens of a prompt, special ones included, and the names of its full blocks; or how many tokens there are
 * at least where that is too many.
 */
export type EncodedPrompt =
  | { readonly tokens: readonly number[]; readonly blockHashes: BlockHashes }
  | { readonly tokensAtLeast: number }

export interface PromptEncoder extends TextModelUser {
  /**
   * Encodes with the model of this digest, which was added. Names blocks for the tenant of this salt, and none
   * where it is undefined. Throws what the model's tokenizer or chat template throws, OverloadedError when too
   * many prompts wait, DeadlineError.
   */
  encode(digest: string, prompt: PromptText, tenantSalt: Uint8Array | undefined): Promise<EncodedPrompt>
  close(): Promise<void>
}

export interface PromptEncoderOptions {
  readonly jobsMax: number
  /** In place of JOB_TIMEOUT_MS and SILENCE_MS_MAX. */
  readonly jobMs?: number
  readonly silenceMs?: number
}

export function createPromptEncoder(options: PromptEncoderOptions): PromptEncoder {
  const { jobsMax, jobMs = JOB_TIMEOUT_MS, silenceMs = SILENCE_MS_MAX } = options
  const models = new Map<string, PromptModel>()
  const waiting = new Map<number, Deferred<EncodedPrompt>>()
  let worker: Worker | undefined
  let nextId = 0
  /** When the worker last said something, or got work while it had none. */
  let heardMs = 0

  function start(): Worker {
    const workerData: PromptWorkerData = { models: [...models.values()] }
    // Conditions given to the main thread (tests run from source) must not reach the built worker.
    const started = new Worker(WORKER_FILE, { workerData, execArgv: [] })
    started.on('message', (result: PromptResult) => settle(result))
    started.on('error', (error) => lost(started, messageOf(error)))
    started.on('exit', () => lost(started, 'it ended'))
    return started
  }

  function settle(result: PromptResult): void {
    const job = waiting.get(result.id)
    heardMs = performance.now()
    waiting.delete(result.id)
    if ('tokens' in result) {
      job?.resolve({ tokens: Array.from(result.tokens), blockHashes: result.blockHashes })
    } else if ('tokensAtLeast' in result) {
      job?.resolve({ tokensAtLeast: result.tokensAtLeast })
    } else {
      const { code, message, param } = result.error
      job?.reject(errorOf(code, message, param === undefined ? {} : { param }))
    }
  }

  function lost(which: Worker, reason: string): void {
    if (worker !== which) return
    worker = undefined
    for (const job of waiting.values()) {
      job.reject(new UnavailableError(`The tokenizer's worker was lost (${reason}). Try again.`))
    }
    waiting.clear()
  }

  function replaceHanging(): void {
    if (worker === undefined || waiting.size === 0 || performance.now() - heardMs < silenceMs) return
    const hanging = worker
    lost(hanging, 'it hung')
    void hanging.terminate()
  }

  function post(to: Worker, message: PromptMessage): void {
    to.postMessage(message)
  }

  worker = start()
  return {
    add(digest, source) {
      models.set(digest, { digest, source })
      if (worker) post(worker, { type: 'add', model: { digest, source } })
    },
    drop(digest) {
      models.delete(digest)
      if (worker) post(worker, { type: 'drop', digest })
    },
    async encode(digest, prompt, tenantSalt) {
      replaceHanging()
      if (waiting.size >= jobsMax) {
        throw new OverloadedError('Too many prompts wait for the tokenizer. Try again in a moment.')
      }
      const id = nextId++
      const job = deferred<EncodedPrompt>()
      if (waiting.size === 0) heardMs = performance.now()
      waiting.set(id, job)
      worker ??= start()
      post(worker, { type: 'encode', id, digest, prompt, tenantSalt })
      return withDeadline(job.promise, jobMs, 'waiting for the tokenizer')
    },
    async close() {
      const closing = worker
      if (closing === undefined) return
      lost(closing, 'the server is closing')
      await closing.terminate()
    },
  }
}
