/**
 * `kvasir bench driver`: what it costs that a driver is a process of its own: the same driver, in this process and
 * behind its socket, takes the same decode steps and moves the same blocks, turn by turn.
 */
import { startDriver } from '@kvasir/agent/socket-driver/open-driver'
import {
  BLOCK_TOKENS,
  type DeviceDriver,
  type DriverModel,
  type StepSequence,
} from '@kvasir/engine/device-driver'
import { EXACT } from '@kvasir/engine/numerics'
import { createOrtDriver } from '@kvasir/engine/ort-driver'
import { formatDuration, formatRate } from '../format.js'
import { emulatedDriverCommand } from '../supervisor/emulated-driver.js'
import { say } from '../terminal.js'
import type { BenchResult } from './bench-result.js'
import { median, rounded } from './statistics.js'

export interface DriverBenchOptions {
  readonly model: string
  readonly rounds: number
}

const contextTokens = 256
const sequences = 4
const stepsARound = 12
const movedBytesMin = 256 << 20

interface Round {
  readonly stepMs: number
  readonly readBytesPerSecond: number
  readonly writeBytesPerSecond: number
}

export async function benchDriver(options: DriverBenchOptions, signal: AbortSignal): Promise<BenchResult> {
  const devices: DeviceDriver[] = [createOrtDriver({ threads: 1 })]
  try {
    devices.push(await startDriver(`${emulatedDriverCommand()} --threads 1`, 'bench'))
    const blocksEach = contextTokens / BLOCK_TOKENS + 1
    const models: DriverModel[] = []
    for (const device of devices) {
      const { model } = options
      models.push(await device.loadModel({ model, numerics: EXACT, kvBlocksMax: sequences * blocksEach }))
    }
    for (const model of models) await prefill(model, blocksEach)
    const rounds: Round[][] = []
    for (let round = 0; round < options.rounds; round += 1) {
      signal.throwIfAborted()
      const both: Round[] = []
      for (const model of models) both.push(await measure(model, blocksEach))
      rounds.push(both)
      say(
        `round ${round + 1} of ${options.rounds}: ${both.map(({ stepMs }) => formatDuration(stepMs)).join(' and ')} a step, blocks are read at ${both.map(({ readBytesPerSecond }) => formatRate(readBytesPerSecond)).join(' and ')}`,
      )
    }
    return result(rounds)
  } finally {
    await Promise.all(devices.map((device) => device.close()))
  }
}

function result(rounds: readonly (readonly Round[])[]): BenchResult {
  const rows = rounds.flatMap((both, round) =>
    both.map((one, place) => ({ round: round + 1, driver: place === 0 ? 'in process' : 'socket', ...one })),
  )
  const of = (place: number, figure: keyof Round) => rounds.map((both) => both[place]?.[figure] ?? 0)
  const ratio = (figure: keyof Round) =>
    median(rounds.map(([here, there]) => (there?.[figure] ?? 0) / (here?.[figure] ?? 1)))
  return {
    figures: {
      stepMs: rounded(median(of(0, 'stepMs'))),
      socketStepMs: rounded(median(of(1, 'stepMs'))),
      socketStepRatio: rounded(ratio('stepMs')),
      readBytesPerSecond: Math.round(median(of(0, 'readBytesPerSecond'))),
      socketReadBytesPerSecond: Math.round(median(of(1, 'readBytesPerSecond'))),
      writeBytesPerSecond: Math.round(median(of(0, 'writeBytesPerSecond'))),
      socketWriteBytesPerSecond: Math.round(median(of(1, 'writeBytesPerSecond'))),
    },
    rows,
  }
}

function blocksOf(sequence: number, blocksEach: number): Uint32Array {
  return Uint32Array.from({ length: blocksEach }, (_, i) => sequence * blocksEach + i)
}

function part(sequence: number, blocksEach: number, start: number, count: number): StepSequence {
  return {
    blocks: blocksOf(sequence, blocksEach),
    start,
    tokens: new Uint32Array(count).fill(7),
    wantLogits: true,
  }
}

async function prefill(model: DriverModel, blocksEach: number): Promise<void> {
  for (let sequence = 0; sequence < sequences; sequence += 1) {
    await model.step([part(sequence, blocksEach, 0, contextTokens)])
  }
}

async function measure(model: DriverModel, blocksEach: number): Promise<Round> {
  const batch = Array.from({ length: sequences }, (_, sequence) =>
    part(sequence, blocksEach, contextTokens, 1),
  )
  const stepsMs: number[] = []
  for (let step = 0; step < stepsARound; step += 1) {
    const sinceMs = performance.now()
    await model.step(batch)
    stepsMs.push(performance.now() - sinceMs)
  }
  const blocks = Uint32Array.from({ length: sequences * blocksEach }, (_, i) => i)
  const { blockLayerBytes, layers } = model.facts
  const times = Math.ceil(movedBytesMin / (blocks.length * blockLayerBytes * layers))
  const bytes = times * layers * blocks.length * blockLayerBytes
  const readMs = await timed(times, layers, async (layer) => void (await model.readBlocks(layer, blocks)))
  const data = new Uint8Array(blocks.length * blockLayerBytes)
  const writeMs = await timed(times, layers, (layer) => model.writeBlocks(layer, blocks, data.slice()))
  return {
    stepMs: median(stepsMs),
    readBytesPerSecond: (bytes / readMs) * 1_000,
    writeBytesPerSecond: (bytes / writeMs) * 1_000,
  }
}

/** A few calls at a time, as transfers have. */
async function timed(times: number, layers: number, call: (layer: number) => Promise<void>): Promise<number> {
  const sinceMs = performance.now()
  for (let time = 0; time < times; time += 1) {
    for (let layer = 0; layer < layers; layer += 4) {
      const some = Array.from({ length: Math.min(4, layers - layer) }, (_, i) => call(layer + i))
      await Promise.all(some)
    }
  }
  return performance.now() - sinceMs
}
