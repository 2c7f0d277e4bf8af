/**
 * `kvasir bench llama`: the same GGUF file by our engine and by llama.cpp, on the same processor with the same
 * number of threads.
 *
 * Both sides are processes of their own that take turns; every round gives both the same prompt, in
 * alternating order, and ratios are taken within a round. Matrices that are stored in a few bits are used as they
 * are stored, on both sides; our KV is f32, llama.cpp's f16, which is its default.
 */
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { basename, join } from 'node:path'
import { GGUF_ENDING } from '@kvasir/engine/gguf/gguf-model'
import type { WritableType } from '@kvasir/engine/gguf/quantize'
import { writeModelAsGguf } from '@kvasir/engine/gguf/write-model'
import { THREADS_MAX } from '@kvasir/engine/limits'
import { resolveModel } from '@kvasir/engine/model-files'
import { CancelledError, InvalidInputError } from '@kvasir/runtime/errors'
import { cacheFolder } from '@kvasir/runtime/state-folder'
import { say } from '../terminal.js'
import type { BenchResult } from './bench-result.js'
import type { LlamaTimes, LlamaWork } from './llama-work.js'
import { type MeasuringProcess, startMeasuringProcess } from './measuring-process.js'
import { installedNodeLlama } from './node-llama.js'
import { median, rounded } from './statistics.js'
import { promptOf } from './streams.js'

export interface LlamaBenchOptions {
  /** A file in GGUF; without it one of `type` is written. */
  readonly gguf?: string
  readonly type: WritableType
  readonly rounds: number
}

const work = { promptTokens: 512, newTokens: 65 }
/** What is written where no file is named. */
const modelWritten = 'dummy:llama-0.5b'

type Side = MeasuringProcess<LlamaWork, LlamaTimes>

interface Round {
  readonly kvasir: LlamaTimes
  readonly llama: LlamaTimes
}

export async function benchLlama(options: LlamaBenchOptions, signal: AbortSignal): Promise<BenchResult> {
  const { file, config, weights } = await inspect(options.gguf ?? (await writtenModel(options.type)))
  const url = await installedNodeLlama()
  const threads = Math.min(availableParallelism(), THREADS_MAX)
  const sides: Side[] = []
  const start = async (script: string, args: readonly string[]): Promise<Side> => {
    const side = await startMeasuringProcess<LlamaWork, LlamaTimes>(script, [...args, String(threads)])
    sides.push(side)
    return side
  }
  try {
    say(`loading ${basename(file)} in both engines, ${threads} threads each …`)
    const kvasir = await start('llama-engine-process', [file, weights])
    const llama = await start('llama-process', [url, file])
    const rounds: Round[] = []
    // The first round is not measured.
    for (let round = 0; round <= options.rounds; round++) {
      if (signal.aborted) throw new CancelledError('The bench was interrupted.')
      const promptTokens = promptOf(round, work.promptTokens, config.vocabularySize)
      const question = { promptTokens, newTokens: work.newTokens }
      const measured = await alternate(round, kvasir, llama, question)
      if (round === 0) continue
      rounds.push(measured)
      say(`round ${round} of ${options.rounds}`)
    }
    return resultOf(rounds, threads)
  } finally {
    for (const side of sides) side.close()
  }
}

async function alternate(round: number, kvasir: Side, llama: Side, question: LlamaWork): Promise<Round> {
  if (round % 2 === 0) {
    const first = await kvasir.measure(question)
    return { kvasir: first, llama: await llama.measure(question) }
  }
  const first = await llama.measure(question)
  return { kvasir: await kvasir.measure(question), llama: first }
}

/** The model's limits, and whether its matrices are used in the form in which they are stored. */
async function inspect(path: string) {
  const { config, openWeights, path: file = '' } = await resolveModel(path)
  if (!file.endsWith(GGUF_ENDING)) {
    throw new InvalidInputError(`${path} is no GGUF file; llama.cpp reads nothing else.`, { param: 'gguf' })
  }
  if (config.contextTokensMax < work.promptTokens + work.newTokens) {
    throw new InvalidInputError(
      `The model ${basename(path)} has a context of ${config.contextTokensMax} tokens; this bench needs ${work.promptTokens + work.newTokens}.`,
      { param: 'gguf' },
    )
  }
  const source = openWeights()
  try {
    const shape = [config.hiddenSize, config.intermediateSize] as const
    const stored = source.packedLayout?.('model.layers.0.mlp.down_proj.weight', shape)
    return { file, config, weights: stored === undefined ? 'f32' : 'int4' }
  } finally {
    source.close()
  }
}

async function writtenModel(type: WritableType): Promise<string> {
  const folder = join(cacheFolder(), 'bench')
  const path = join(folder, `llama-0.5b-${type}.gguf`)
  if (existsSync(path)) return path
  say(`writing ${path} …`)
  await mkdir(folder, { recursive: true })
  await writeModelAsGguf(await resolveModel(modelWritten), type, path)
  return path
}

/** Figures of rounds, each of them a prompt and an answer on both sides. */
export function resultOf(rounds: readonly Round[], threads: number): BenchResult {
  const of = (pick: (round: Round) => number) => rounded(median(rounds.map(pick)))
  const prefill = ({ ttftMs }: LlamaTimes) => (work.promptTokens * 1000) / ttftMs
  const decode = ({ tpotMs }: LlamaTimes) => 1000 / tpotMs
  return {
    figures: {
      decodeOverLlama: of(({ kvasir, llama }) => llama.tpotMs / kvasir.tpotMs),
      prefillOverLlama: of(({ kvasir, llama }) => llama.ttftMs / kvasir.ttftMs),
      decodeTokensPerS: of(({ kvasir }) => decode(kvasir)),
      prefillTokensPerS: of(({ kvasir }) => prefill(kvasir)),
      llamaDecodeTokensPerS: of(({ llama }) => decode(llama)),
      llamaPrefillTokensPerS: of(({ llama }) => prefill(llama)),
      threads,
    },
    rows: rounds.flatMap((round, index) =>
      (['kvasir', 'llama'] as const).map((engine) => ({
        round: index + 1,
        engine: engine === 'llama' ? 'llama.cpp' : engine,
        prefillTokensPerS: rounded(prefill(round[engine])),
        decodeTokensPerS: rounded(decode(round[engine])),
      })),
    ),
  }
}
