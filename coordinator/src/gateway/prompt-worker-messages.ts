/**
 * What the gateway and its text worker say to each other.
 */

import type { TextFiles } from '@kvasir/engine/text/text-model'
import type { ErrorCode } from '@kvasir/runtime/errors'
import type { BlockHashes } from '../core/block-hashes.js'
import type { ChatMessage } from './generation-plan.js'

/** A model and where its text side is loaded from. */
export interface PromptModel {
  readonly digest: string
  readonly source: string | TextFiles
}

export interface PromptWorkerData {
  /** Those known when the worker starts. */
  readonly models: readonly PromptModel[]
}

export type PromptMessage =
  | { readonly type: 'add'; readonly model: PromptModel }
  | { readonly type: 'drop'; readonly digest: string }
  | ({ readonly type: 'encode' } & PromptJob)

/** A prompt that needs a tokenizer, or names for its blocks. */
export type PromptText =
  | { readonly kind: 'chat'; readonly messages: readonly ChatMessage[] }
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'tokens'; readonly tokens: readonly number[] }

export interface PromptJob {
  readonly id: number
  /** Of the model. */
  readonly digest: string
  readonly prompt: PromptText
  /** Whose blocks they are; undefined where nothing is reused and no names are needed. */
  readonly tenantSalt: Uint8Array | undefined
}

export type PromptResult =
  | {
      readonly id: number
      readonly tokens: Uint32Array<ArrayBuffer>
      readonly blockHashes: BlockHashes
    }
  /** The text is so long that it was not tokenized: it has this many tokens or more. */
  | { readonly id: number; readonly tokensAtLeast: number }
  | { readonly id: number; readonly error: PromptError }

export interface PromptError {
  readonly code: ErrorCode
  readonly message: string
  readonly param: string | undefined
}
