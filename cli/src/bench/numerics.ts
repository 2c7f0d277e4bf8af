/**
 * `kvasir bench numerics`: what the FPGA's precision costs in quality, on text that the bundled model was not
 * trained on.
 *
 * The text is cut into windows; of each the first half is a prompt, and every token of the second half is
 * scored as it is decoded: how probable the model found it (perplexity), and whether its first choice is
 * that of profile exact (top-1 agreement). `Paper` is the cluster's way, a prompt prefilled in float and
 * decoded in w4a8 from KV that went over the wire in int8; `Quantised` does both in w4a8.
 */
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { BLOCK_TOKENS, type DriverModel } from '@kvasir/engine/device-driver'
import { DECODE_SEQUENCES_MAX, PREFILL_CHUNK_TOKENS } from '@kvasir/engine/limits'
import { EXACT, PAPER_FLOAT, PAPER_QUANTISED } from '@kvasir/engine/numerics'
import { createOrtDriver } from '@kvasir/engine/ort-driver'
import { loadTextModel } from '@kvasir/engine/text/text-model'
import { CancelledError, NotFoundError } from '@kvasir/runtime/errors'
import { modelDefault } from '../commands/up-options.js'
import { say } from '../terminal.js'
import type { BenchResult } from './bench-result.js'
import { rounded } from './statistics.js'

export interface NumericsOptions {
  readonly model: string
}

const windowTokens = 512
const promptTokens = PREFILL_CHUNK_TOKENS
const blocksOfWindow = windowTokens / BLOCK_TOKENS

/** What a model makes of the scored tokens, in the order of the text. */
interface Scores {
  /** −ln of the probability that it gave the token. */
  readonly losses: readonly number[]
  /** Its first choice. */
  readonly choices: readonly number[]
}

export async function benchNumerics({ model }: NumericsOptions, signal: AbortSignal): Promise<BenchResult> {
  const windows = await windowsOf(model)
  const device = createOrtDriver()
  try {
    const load = (numerics: typeof EXACT) =>
      device.loadModel({ model, numerics, kvBlocksMax: DECODE_SEQUENCES_MAX * blocksOfWindow })
    const exact = await load(EXACT)
    const float = await load(PAPER_FLOAT)
    const quantised = await load(PAPER_QUANTISED)
    const score = async (name: string, prefill: DriverModel, decode: DriverModel) => {
      const scores = await scoreAll(windows, prefill, decode, signal)
      say(`${name}: perplexity ${rounded(perplexity(scores))}`)
      return scores
    }
    const base = await score('exact', exact, exact)
    const paper = await score('paper', float, quantised)
    const alone = await score('quantised', quantised, quantised)
    const rowOf = (name: string, scores: Scores) => ({
      numerics: name,
      tokens: scores.losses.length,
      perplexity: rounded(perplexity(scores), 6),
      top1Agreement: rounded(agreement(scores, base)),
    })
    const figures = {
      perplexityExact: perplexity(base),
      perplexityPaper: perplexity(paper),
      perplexityRatio: perplexity(paper) / perplexity(base),
      top1Agreement: agreement(paper, base),
      perplexityQuantised: perplexity(alone),
      perplexityRatioQuantised: perplexity(alone) / perplexity(base),
      top1AgreementQuantised: agreement(alone, base),
    }
    return {
      figures: Object.fromEntries(Object.entries(figures).map(([name, value]) => [name, rounded(value)])),
      rows: [rowOf('exact', base), rowOf('paper', paper), rowOf('quantised', alone)],
    }
  } finally {
    await device.close()
  }
}

/** Windows of the held-out text, the last one left out where it is not full. */
async function windowsOf(model: string): Promise<readonly (readonly number[])[]> {
  const file = path.join(modelDefault, 'heldout.txt')
  if (!existsSync(file)) throw new NotFoundError(`There is no held-out text: ${file} is missing.`)
  const text = await loadTextModel(model)
  // Some models begin a text with no token of its own.
  const begin = text.encode('')
  const options = { addSpecialTokens: false }
  const tokens = text.encode(readFileSync(file, 'utf8').replaceAll('\n', ' '), options)
  const own = windowTokens - begin.length
  return Array.from({ length: Math.floor(tokens.length / own) }, (_, i) => [
    ...begin,
    ...tokens.slice(i * own, (i + 1) * own),
  ])
}

async function scoreAll(
  windows: readonly (readonly number[])[],
  prefill: DriverModel,
  decode: DriverModel,
  signal: AbortSignal,
): Promise<Scores> {
  const losses: number[] = []
  const choices: number[] = []
  for (let first = 0; first < windows.length; first += DECODE_SEQUENCES_MAX) {
    const batch = windows.slice(first, first + DECODE_SEQUENCES_MAX)
    // The last token of the prompt is decoded, so that the first scored one has logits of the decoding device.
    for (const [i, window] of batch.entries()) {
      const tokens = Uint32Array.from(window.slice(0, promptTokens))
      await prefill.step([{ blocks: blocksOf(i), start: 0, tokens, wantLogits: false }])
      if (prefill !== decode) await moveBlocks(prefill, decode, blocksOf(i))
    }
    const width = decode.facts.vocabularySize
    for (let position = promptTokens; position < windowTokens - 1; position++) {
      if (signal.aborted) throw new CancelledError('The bench was interrupted.')
      const sequences = batch.map((window, i) => ({
        blocks: blocksOf(i),
        start: position,
        tokens: Uint32Array.of(window[position] ?? 0),
        wantLogits: true,
      }))
      const { logits } = await decode.step(sequences)
      for (const [i, window] of batch.entries()) {
        const { loss, choice } = scoreOf(
          logits.subarray(i * width, (i + 1) * width),
          window[position + 1] ?? 0,
        )
        losses.push(loss)
        choices.push(choice)
      }
    }
  }
  return { losses, choices }
}

/** As in a cluster: what is read speaks the wire's format, and so does what is written. */
async function moveBlocks(from: DriverModel, to: DriverModel, blocks: Uint32Array): Promise<void> {
  for (let layer = 0; layer < from.facts.layers; layer++) {
    await to.writeBlocks(layer, blocks, await from.readBlocks(layer, blocks))
  }
}

function blocksOf(index: number): Uint32Array {
  return Uint32Array.from({ length: blocksOfWindow }, (_, i) => index * blocksOfWindow + i)
}

function scoreOf(logits: Float32Array, token: number): { readonly loss: number; readonly choice: number } {
  let choice = 0
  for (let i = 1; i < logits.length; i++) if ((logits[i] ?? 0) > (logits[choice] ?? 0)) choice = i
  const largest = logits[choice] ?? 0
  let sum = 0
  for (const logit of logits) sum += Math.exp(logit - largest)
  return { loss: largest + Math.log(sum) - (logits[token] ?? 0), choice }
}

function perplexity({ losses }: Scores): number {
  return Math.exp(losses.reduce((sum, loss) => sum + loss, 0) / losses.length)
}

function agreement({ choices }: Scores, { choices: others }: Scores): number {
  return choices.filter((choice, i) => choice === others[i]).length / choices.length
}
