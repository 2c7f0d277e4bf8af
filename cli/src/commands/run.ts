/**
 * `kvasir run PROMPT`: one generation, streamed to the terminal; by the cluster, or with
 * `--local` by the same engine in this process, which needs no cluster.
 *
 * A model with a chat template gets the prompt as one user message; another continues it.
 * Sampling is greedy unless a temperature is given, so that two runs can be compared.
 */
import type { ProfileName, RequestReport, RetrievalReport } from '@kvasir/coordinator/generation'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { type Command, Option } from 'commander'
import { callJson } from '../client/api-client.js'
import {
  type GenerationResult,
  type GenerationWish,
  generate,
  tpotMsOf,
  ttftMsOf,
} from '../client/generation.js'
import { locateCluster } from '../client/locate-cluster.js'
import { firstModel } from '../client/models.js'
import { EXIT } from '../exit-codes.js'
import { formatForeign } from '../format.js'
import { modelledText } from '../pace-text.js'
import { print, printJson, say, withProgress } from '../terminal.js'
import { profileOption } from './models.js'
import { countOption, numberOption, positiveOption, priorityOption } from './option-values.js'
import { interruptSignal, type Run } from './run-command.js'
import { modelDefault } from './up-options.js'

export interface RunOptions {
  readonly maxTokens: number
  readonly seed?: number
  readonly temperature: number
  readonly priority?: number
  readonly ttftDeadline?: number
  readonly topP: number
  readonly local?: boolean
  readonly json?: boolean
  readonly model?: string
  readonly profile?: string
  readonly mergeLayers?: string
  readonly attention?: string
  readonly budget?: string
  readonly attend?: string
  /** False with --no-cache. */
  readonly cache: boolean
  readonly corpus?: string
  readonly retrieve?: number
}

/** The document of `run --json`; docs/schemas/run.json. */
export interface RunDocument
  extends Pick<GenerationResult, 'text' | 'tokens' | 'finishReason' | 'numericsChanged' | 'usage'> {
  /** Of the last placement. */
  readonly profile: ProfileName
  /** Null where no cluster was used. */
  readonly requestId: string | null
  readonly traceId: string | null
  readonly placement: { readonly prefillDevice: string; readonly decodeDevice: string } | null
  readonly kv: { readonly bytes: number; readonly chunks: number; readonly overlap: number | null } | null
  /** The documents put before the question; null without --corpus. */
  readonly retrieval: Pick<RetrievalReport, 'corpus' | 'documents'> | null
  readonly ttftMs: number | null
  readonly tpotMs: number | null
  /** Devices whose times are a catalogued device's; empty for real times. */
  readonly modelled: RequestReport['modelled']
}

export function runCommandOf(program: Command, run: Run): void {
  program
    .command('run <prompt>')
    .description('generate text from a prompt and stream it')
    .option('--max-tokens <count>', 'most tokens to generate', positiveOption(1_000_000), 128)
    .option('--seed <number>', 'seed of the sampling', countOption(Number.MAX_SAFE_INTEGER))
    .option('--temperature <number>', '0 takes the likeliest token', numberOption(0, 2), 0)
    .option(
      '--top-p <number>',
      'keep the likeliest tokens of this probability',
      numberOption(0.000_001, 1),
      1,
    )
    .option('--model <name>', 'model of the cluster; with --local a model folder (default: skald)')
    .addOption(profileOption("numerics (default: the cluster's)"))
    .addOption(
      new Option('--merge-layers <count>', 'layers whose KV blocks are sent together').choices([
        '1',
        '2',
        '4',
        '8',
      ]),
    )
    .option('--attention <method>', 'dense, page-bounds, random or recent (default: the cluster decides)')
    .option('--budget <size>', 'what sparse attention reads: tokens, or a share of the context such as 25%')
    .option('--attend <place>', 'where attention runs: auto, local, partial or indices')
    .option('--no-cache', 'neither use cached KV blocks nor leave any')
    .option('--priority <number>', 'higher is more urgent (default: 0)', priorityOption)
    .option(
      '--ttft-deadline <ms>',
      'refuse it early where its first token would take longer',
      positiveOption(86_400_000),
    )
    .option('--corpus <name>', 'retrieve documents for the prompt from this corpus')
    .option('--retrieve <count>', 'documents to retrieve (default: 4)', positiveOption(50))
    .option('--local', 'use the engine in this process, without a cluster')
    .option('--json', 'print one JSON document instead of the text')
    .action((prompt: string, options: RunOptions) =>
      run(async () => {
        const interrupted = interruptSignal()
        try {
          const write = (text: string) => {
            if (!options.json) process.stdout.write(text)
          }
          const document = options.local
            ? await runLocally(
                prompt,
                { ...options, model: options.model ?? modelDefault },
                interrupted,
                write,
              )
            : await runOnCluster(prompt, options, interrupted, write)
          if (options.json) printJson(document)
          else print('')
          if (document.numericsChanged && !options.json) {
            say(
              'a device was lost, and the rest computed with other numerics: the text may differ from an undisturbed run',
            )
          }
          sayRetrieved(document.retrieval)
          sayRequest(document, options)
          const modelled = modelledText(document.modelled)
          if (modelled !== undefined) say(modelled)
          return EXIT.ok
        } catch (error) {
          if (interrupted.aborted) return EXIT.interrupted
          throw error
        }
      }),
    )
}

async function runLocally(
  prompt: string,
  options: RunOptions,
  signal: AbortSignal,
  write: (text: string) => void,
): Promise<RunDocument> {
  // The engine is large, and only this needs it.
  const local = await import('./local-run.js')
  return local.runLocally(prompt, { ...options, model: options.model ?? modelDefault }, signal, write)
}

async function runOnCluster(
  prompt: string,
  options: RunOptions,
  signal: AbortSignal,
  write: (text: string) => void,
): Promise<RunDocument> {
  const url = locateCluster()
  const model = await firstModel(url, options.model)
  const wish = {
    model: model.id,
    prompt,
    chat: model.kvasir.chat ?? false,
    maxTokens: options.maxTokens,
    temperature: options.temperature,
    topP: options.topP,
    ...(options.seed === undefined ? {} : { seed: options.seed }),
    ...(options.cache ? {} : { cachePrompt: false }),
    ...(options.profile === undefined ? {} : { profile: options.profile }),
    ...(options.mergeLayers === undefined ? {} : { mergeLayers: Number(options.mergeLayers) }),
    ...(options.priority === undefined ? {} : { priority: options.priority }),
    ...(options.ttftDeadline === undefined ? {} : { ttftDeadlineMs: options.ttftDeadline }),
    ...attentionOf(options),
    ...retrievalOf(options),
  }
  let arrived = false
  const onText = (text: string) => {
    arrived = true
    write(text)
  }
  const result = await withProgress(generate(url, wish, signal, onText), (seconds) => {
    if (!arrived || options.json) say(`waiting for the answer … ${seconds} s`)
  })
  const report = await callJson<RequestReport>(url, `/v1/requests/${result.requestId}`)
  const placement = report.placements.at(-1)
  return {
    requestId: result.requestId,
    traceId: result.traceId,
    text: result.text,
    tokens: result.tokens,
    finishReason: result.finishReason,
    profile: placement?.profile ?? report.profile,
    numericsChanged: result.numericsChanged,
    usage: result.usage,
    placement:
      placement === undefined
        ? null
        : { prefillDevice: placement.prefillDevice, decodeDevice: placement.decodeDevice },
    kv: { bytes: report.kv.bytes, chunks: report.kv.chunks, overlap: report.kv.overlap },
    retrieval: report.retrieval && {
      corpus: report.retrieval.corpus,
      documents: report.retrieval.documents,
    },
    ttftMs: ttftMsOf(result) ?? null,
    tpotMs: tpotMsOf(result) ?? null,
    modelled: report.modelled,
  }
}

/** As the API takes it, which also says what is wrong with it. */
function attentionOf({ attention, budget, attend }: RunOptions): { attention?: object } {
  if (attention === undefined && budget === undefined && attend === undefined) return {}
  const size = budget === undefined ? {} : { budget: /^\d+$/.test(budget) ? Number(budget) : budget }
  return {
    attention: { method: attention ?? 'auto', ...size, ...(attend === undefined ? {} : { place: attend }) },
  }
}

/** What to ask next; a program reads it in the document. */
function sayRequest({ requestId, usage }: RunDocument, { json }: RunOptions): void {
  if (json || requestId === null) return
  const { cachedTokens, promptTokens } = usage
  say(
    `${cachedTokens} of ${promptTokens} prompt tokens were cached; \`npx kvasir explain ${requestId}\` says more`,
  )
}

function sayRetrieved(retrieval: RunDocument['retrieval']): void {
  if (retrieval === null) return
  const { corpus, documents } = retrieval
  if (documents.length === 0)
    say(`no document of ${corpus} was put before the prompt: none matches it, or fits`)
  for (const { id, title, score } of documents) {
    say(
      `used document ${formatForeign(id)} "${formatForeign(title)}" of ${corpus} (score ${score.toFixed(3)})`,
    )
  }
}

function retrievalOf({ corpus, retrieve }: RunOptions): Pick<GenerationWish, 'retrieval'> {
  if (corpus === undefined && retrieve !== undefined) {
    throw new InvalidInputError('--retrieve needs --corpus, the name of what to retrieve from.')
  }
  return corpus === undefined
    ? {}
    : { retrieval: { corpus, ...(retrieve === undefined ? {} : { k: retrieve }) } }
}
