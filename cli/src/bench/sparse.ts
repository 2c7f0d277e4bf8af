/**
 * `kvasir bench sparse`: what sparse attention costs in accuracy and saves in bytes.
 *
 * A key-recall set asks for a number that was said somewhere in the prompt. All of the prompt but its
 * last token is prefilled densely, once; the last token and the answer are decode steps under each
 * method and budget, so that every token of the answer is found with the pages that the method chose.
 * An answer counts where it is right to the last digit.
 */
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import {
  BLOCK_TOKENS,
  type DriverModel,
  type LoadedModelFacts,
  type SparseAttention,
} from '@kvasir/engine/device-driver'
import { PREFILL_CHUNK_TOKENS } from '@kvasir/engine/limits'
import { EXACT } from '@kvasir/engine/numerics'
import { createOrtDriver } from '@kvasir/engine/ort-driver'
import { loadTextModel, type TextModel } from '@kvasir/engine/text/text-model'
import { CancelledError, InvalidInputError, NotFoundError } from '@kvasir/runtime/errors'
import { modelDefault } from '../commands/up-options.js'
import { formatShare } from '../format.js'
import { say } from '../terminal.js'
import type { BenchResult } from './bench-result.js'
import { rounded } from './statistics.js'

export interface SparseOptions {
  /** Prompt lengths, tokens; each is a file of the recall set. */
  readonly lengths: readonly number[]
  /** Cases of each length, the first ones of the file. */
  readonly cases: number
}

interface RecallCase {
  readonly prompt: string
  readonly answer: string
}

type Method = SparseAttention['method']

interface Plan {
  readonly method: Method | 'dense'
  /** Share of the pages; 1 for dense. */
  readonly share: number
}

interface Tally {
  right: number
  steps: number
  kvBytes: number
  boundsBytes: number
}

const shares = [0.1, 0.25, 0.5]
const methods: readonly Method[] = ['page-bounds', 'random', 'recent']
const plans: readonly Plan[] = [
  { method: 'dense', share: 1 },
  ...methods.flatMap((method) => shares.map((share) => ({ method, share }))),
]
const names: Readonly<Record<Plan['method'], string>> = {
  dense: 'Dense',
  'page-bounds': 'PageBounds',
  random: 'Random',
  recent: 'Recent',
}

export async function benchSparse(options: SparseOptions, signal: AbortSignal): Promise<BenchResult> {
  const text = await loadTextModel(modelDefault)
  const sets = options.lengths.map((length) => ({ length, cases: readCases(length).slice(0, options.cases) }))
  const blocks = Math.ceil(text.contextTokensMax / BLOCK_TOKENS)
  const device = createOrtDriver()
  try {
    const driver = await device.loadModel({ model: modelDefault, numerics: EXACT, kvBlocksMax: blocks })
    const model = driver.facts
    const rows: BenchResult['rows'][number][] = []
    const figures: Record<string, number> = {}
    for (const { length, cases } of sets) {
      const tallies = plans.map((): Tally => ({ right: 0, steps: 0, kvBytes: 0, boundsBytes: 0 }))
      for (const recall of cases) {
        if (signal.aborted) throw new CancelledError('The bench was interrupted.')
        await tryAll(driver, model, text, recall, tallies)
      }
      plans.forEach((plan, index) => {
        const tally = tallies[index]
        if (tally === undefined) return
        const percent = Math.round(plan.share * 100)
        const label = `${names[plan.method]}${plan.method === 'dense' ? '' : percent}At${length}`
        const accuracy = tally.right / cases.length
        figures[`accuracy${label}`] = rounded(accuracy)
        figures[`kvBytesPerToken${label}`] = Math.round(tally.kvBytes / tally.steps)
        rows.push({
          length,
          method: plan.method,
          budgetPercent: percent,
          cases: cases.length,
          right: tally.right,
          accuracy: rounded(accuracy),
          kvBytesPerToken: Math.round(tally.kvBytes / tally.steps),
          boundsBytesPerToken: Math.round(tally.boundsBytes / tally.steps),
        })
      })
      const dense = figures[`accuracyDenseAt${length}`] ?? 0
      const quarter = figures[`accuracyPageBounds25At${length}`] ?? 0
      say(`${length} tokens: dense ${formatShare(dense)}, page bounds at 25 % ${formatShare(quarter)}`)
    }
    return { figures, rows }
  } finally {
    await device.close()
  }
}

/** One prompt, prefilled once, answered under every plan. */
async function tryAll(
  driver: DriverModel,
  model: LoadedModelFacts,
  text: TextModel,
  recall: RecallCase,
  tallies: readonly Tally[],
): Promise<void> {
  const prompt = text.encode(recall.prompt)
  const answerTokensMax = text.encode(recall.answer).length
  const blocks = Uint32Array.from(
    { length: Math.ceil((prompt.length + answerTokensMax) / BLOCK_TOKENS) },
    (_, i) => i,
  )
  const last = prompt.length - 1
  for (let start = 0; start < last; start += PREFILL_CHUNK_TOKENS) {
    const tokens = Uint32Array.from(prompt.slice(start, Math.min(last, start + PREFILL_CHUNK_TOKENS)))
    await driver.step([{ blocks, start, tokens, wantLogits: false }])
  }
  for (const [index, plan] of plans.entries()) {
    const tally = tallies[index]
    if (tally === undefined) continue
    const decoder = text.decoder()
    let answer = ''
    let token = prompt[last] ?? 0
    for (
      let position = last;
      position < last + answerTokensMax && recall.answer.startsWith(answer);
      position++
    ) {
      const pages = Math.floor(position / BLOCK_TOKENS) + 1
      const { logits, attention } = await driver.step([
        {
          blocks: blocks.slice(0, pages),
          start: position,
          tokens: Uint32Array.of(token),
          wantLogits: true,
          trackPages: true,
          ...(plan.method === 'dense'
            ? {}
            : {
                attention: {
                  method: plan.method,
                  pages: Math.max(1, Math.ceil(plan.share * pages)),
                  seed: index,
                },
              }),
        },
      ])
      tally.steps += 1
      // K and V of one page of one KV head.
      tally.kvBytes += (attention[0]?.pagesRead ?? 0) * (model.blockLayerBytes / model.kvHeads)
      if (plan.method === 'page-bounds') {
        tally.boundsBytes += (attention[0]?.pages ?? 0) * 2 * model.headDim * Float32Array.BYTES_PER_ELEMENT
      }
      token = likeliest(logits)
      answer += decoder.push(token)
    }
    answer += decoder.flush()
    if (answer.startsWith(recall.answer)) tally.right += 1
  }
}

function likeliest(logits: Float32Array): number {
  let best = 0
  for (let i = 1; i < logits.length; i++) if ((logits[i] ?? 0) > (logits[best] ?? 0)) best = i
  return best
}

function readCases(length: number): RecallCase[] {
  const file = path.join(modelDefault, 'recall', `${length}.jsonl`)
  if (!existsSync(file)) {
    throw new NotFoundError(
      `There is no recall set of ${length} tokens: ${file} is missing. Use a length that the folder has.`,
    )
  }
  const lines = readFileSync(file, 'utf8').split('\n')
  return lines.flatMap((line, index) => (line === '' ? [] : [caseOf(line, `${file}:${index + 1}`)]))
}

function caseOf(line: string, where: string): RecallCase {
  const { prompt, answer } = JSON.parse(line) as { prompt?: unknown; answer?: unknown }
  if (typeof prompt === 'string' && typeof answer === 'string') return { prompt, answer }
  throw new InvalidInputError(`${where} is no recall case: it needs a prompt and an answer.`)
}
