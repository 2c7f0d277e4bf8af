/**
 * `kvasir bench engine`: how near the engine comes to what the machine can do.
 *
 * Every round measures the machine's limit, then prefill and decode in f32 and in w4a8, so that a machine
 * that slows down slows all of them; ratios are taken within a round, and a figure is their median. The
 * devices are the agents' own drivers, on which this process makes steps as an agent would.
 */
import {
  BLOCK_TOKENS,
  type DeviceDriver,
  type DriverModel,
  type LoadedModelFacts,
  type StepSequence,
} from '@kvasir/engine/device-driver'
import { PREFILL_CHUNK_TOKENS } from '@kvasir/engine/limits'
import type { ModelConfig } from '@kvasir/engine/model-config'
import { resolveModel } from '@kvasir/engine/model-files'
import { EXACT, type Numerics, PAPER_QUANTISED } from '@kvasir/engine/numerics'
import { createOrtDriver } from '@kvasir/engine/ort-driver'
import { CancelledError } from '@kvasir/runtime/errors'
import { say } from '../terminal.js'
import type { BenchResult } from './bench-result.js'
import { startMachineLimit } from './machine-limit.js'
import { median, rounded } from './statistics.js'

export interface EngineOptions {
  readonly model: string
  readonly rounds: number
}

const prefillTokens = 512
/** Tokens before the ones that are decoded. */
const decodeContext = 128
const decodeSteps = 16
const batchLarge = 8
const blocksOfSequence = prefillTokens / BLOCK_TOKENS

/** Of one model in one round. */
interface Rates {
  readonly prefillTokensPerS: number
  readonly decodeTokensPerS: number
  readonly decode8TokensPerS: number
}

interface Round {
  readonly f32: Rates
  readonly w4a8: Rates
  readonly vectorBytesPerS: number
  readonly matrixFlopPerS: number
}

export async function benchEngine(options: EngineOptions, signal: AbortSignal): Promise<BenchResult> {
  const device = createOrtDriver()
  const limit = await startMachineLimit()
  try {
    const { config } = await resolveModel(options.model)
    const { f32, w4a8 } = await loadAll(device, options.model)
    const rounds: Round[] = []
    const rows: BenchResult['rows'][number][] = []
    // The first round is not measured.
    for (let round = 0; round <= options.rounds; round++) {
      if (signal.aborted) throw new CancelledError('The bench was interrupted.')
      const measured = {
        ...(await limit.measure()),
        f32: await measure(f32, round),
        w4a8: await measure(w4a8, round),
      }
      if (round === 0) continue
      rounds.push(measured)
      rows.push(rowOf(round, measured))
      say(`round ${round} of ${options.rounds}`)
    }
    return { figures: figuresOf(rounds, f32.facts, prefillFlop(config, prefillTokens)), rows }
  } finally {
    limit.close()
    await device.close()
  }
}

/** One device with both models, as an agent that serves both profiles has them. */
async function loadAll(device: DeviceDriver, model: string) {
  const load = async ({ name, numerics }: { readonly name: string; readonly numerics: Numerics }) => {
    say(`loading ${model} in ${name} …`)
    return device.loadModel({ model, numerics, kvBlocksMax: blocksOfSequence * (batchLarge + 1) })
  }
  return {
    f32: await load({ name: 'f32', numerics: EXACT }),
    w4a8: await load({ name: 'w4a8', numerics: PAPER_QUANTISED }),
  }
}

/** Blocks are shared by nobody: sequence `index` has its own. */
function blocksOf(index: number): Uint32Array {
  return Uint32Array.from({ length: blocksOfSequence }, (_, i) => index * blocksOfSequence + i)
}

async function measure(model: DriverModel, round: number): Promise<Rates> {
  const tokenAt = (i: number) => (round * 7_919 + i * 31) % model.facts.vocabularySize
  const prefill = await seconds(async () => {
    for (let start = 0; start < prefillTokens; start += PREFILL_CHUNK_TOKENS) {
      const tokens = Uint32Array.from({ length: PREFILL_CHUNK_TOKENS }, (_, i) => tokenAt(start + i))
      const wantLogits = start + PREFILL_CHUNK_TOKENS >= prefillTokens
      await model.step([{ blocks: blocksOf(0), start, tokens, wantLogits }])
    }
  })
  return {
    prefillTokensPerS: prefillTokens / prefill,
    decodeTokensPerS: await decodeRate(model, 1, tokenAt),
    decode8TokensPerS: await decodeRate(model, batchLarge, tokenAt),
  }
}

/** What stands in the blocks does not matter to the time that a step takes. */
async function decodeRate(
  model: DriverModel,
  batch: number,
  tokenAt: (i: number) => number,
): Promise<number> {
  const times: number[] = []
  for (let i = 0; i < decodeSteps; i++) {
    const sequences = Array.from(
      { length: batch },
      (_, index): StepSequence => ({
        blocks: blocksOf(index + 1),
        start: decodeContext + i,
        tokens: Uint32Array.of(tokenAt(index * decodeSteps + i)),
        wantLogits: true,
      }),
    )
    times.push(await seconds(() => model.step(sequences)))
  }
  return batch / median(times)
}

async function seconds(work: () => Promise<unknown>): Promise<number> {
  const begin = performance.now()
  await work()
  return (performance.now() - begin) / 1_000
}

/**
 * Operations of the products with weights in a prefill: of the last layer all but q, k and v, and the head, are
 * multiplied by the prompt's last row only.
 */
export function prefillFlop(config: ModelConfig, tokens: number): number {
  const { hiddenSize, heads, kvHeads, headDim, intermediateSize, layers, vocabularySize } = config
  const queryKeyValue = hiddenSize * (heads + 2 * kvHeads) * headDim
  const rest = hiddenSize * (heads * headDim + 3 * intermediateSize)
  const everyRow = layers * queryKeyValue + (layers - 1) * rest
  return 2 * (everyRow * tokens + rest + vocabularySize * hiddenSize)
}

function figuresOf(
  rounds: readonly Round[],
  f32: LoadedModelFacts,
  flopOfPrefill: number,
): Record<string, number> {
  const of = (pick: (round: Round) => number) => rounded(median(rounds.map(pick)))
  return {
    'f32.decodeTokensPerS': of(({ f32 }) => f32.decodeTokensPerS),
    'f32.decode8TokensPerS': of(({ f32 }) => f32.decode8TokensPerS),
    'f32.prefillTokensPerS': of(({ f32 }) => f32.prefillTokensPerS),
    'w4a8.decodeTokensPerS': of(({ w4a8 }) => w4a8.decodeTokensPerS),
    'w4a8.decode8TokensPerS': of(({ w4a8 }) => w4a8.decode8TokensPerS),
    'w4a8.prefillTokensPerS': of(({ w4a8 }) => w4a8.prefillTokensPerS),
    'f32.decodeOfLimit': of(
      (round) => (round.f32.decodeTokensPerS * f32.weightBytes) / round.vectorBytesPerS,
    ),
    'f32.prefillOfLimit': of(
      ({ f32, matrixFlopPerS }) => ((f32.prefillTokensPerS / prefillTokens) * flopOfPrefill) / matrixFlopPerS,
    ),
    w4a8OverF32: of(({ f32, w4a8 }) => w4a8.decodeTokensPerS / f32.decodeTokensPerS),
    'f32.batch8Speedup': of(({ f32 }) => f32.decode8TokensPerS / f32.decodeTokensPerS),
    'w4a8.batch8Speedup': of(({ w4a8 }) => w4a8.decode8TokensPerS / w4a8.decodeTokensPerS),
    vectorBytesPerS: of((round) => round.vectorBytesPerS),
    matrixFlopPerS: of((round) => round.matrixFlopPerS),
  }
}

function rowOf(
  round: number,
  { f32, w4a8, vectorBytesPerS, matrixFlopPerS }: Round,
): BenchResult['rows'][number] {
  const named = (name: string, rates: Rates) =>
    Object.entries(rates).map(([key, value]: [string, number]) => [`${name}.${key}`, rounded(value)] as const)
  return {
    round,
    ...Object.fromEntries([...named('f32', f32), ...named('w4a8', w4a8)]),
    vectorBytesPerS: rounded(vectorBytesPerS),
    matrixFlopPerS: rounded(matrixFlopPerS),
  }
}
