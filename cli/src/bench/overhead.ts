/**
 * `kvasir bench overhead`: what the cluster costs over the same engine in one process.
 *
 * Every round measures both sides in alternating order, so that a machine that slows down
 * slows both, and every figure is the median of per-round comparisons. Each stream has a
 * prompt of its own, so nothing is cached.
 */
import { MERGE_LAYERS } from '@kvasir/agent/merge-layers'
import { createLocalGenerator, type LocalGenerator } from '@kvasir/engine/local-generator'
import { loadTextModel } from '@kvasir/engine/text/text-model'
import { fetchTrace } from '../commands/trace.js'
import { modelDefault } from '../commands/up-options.js'
import { formatBytes, formatRate } from '../format.js'
import { say } from '../terminal.js'
import { withBenchCluster } from './bench-cluster.js'
import type { BenchResult } from './bench-result.js'
import { cpuTimeUs } from './cpu-time.js'
import { type KvTransfer, kvTransferOf } from './kv-overlap.js'
import { median, rounded } from './statistics.js'
import { clusterStream, engineStream, promptOf, type StreamTimes, type StreamWork } from './streams.js'

export interface OverheadOptions {
  /** Model of the ratios and the overlap. */
  readonly model: string
  readonly rounds: number
}

const ratioWork = { promptTokens: 512, newTokens: 64 }
const streamsWork = { promptTokens: 64, newTokens: 64 }
const manyStreams = 32
/** Rounds that are not measured: a step of the small model is as short as code that was just compiled is slow. */
const streamsWarmUpRounds = 10
const overlapRounds = 3
/** Transfer takes this share of prefill's time in the overlap runs. */
const transferShare = 0.5

type Row = BenchResult['rows'][number]

interface Bench {
  readonly options: OverheadOptions
  readonly signal: AbortSignal
  readonly rows: Row[]
}

export async function benchOverhead(options: OverheadOptions, signal: AbortSignal): Promise<BenchResult> {
  const bench: Bench = { options, signal, rows: [] }
  const { figures: ratios, unpaced } = await measureRatios(bench)
  const streams = await measureStreams(bench)
  const overlap = await measureOverlap(bench, unpaced)
  const figures = { ...ratios, ...streams, ...overlap }
  const entries = Object.entries(figures).map(([name, value]) => [name, rounded(value)] as const)
  return { figures: Object.fromEntries(entries), rows: bench.rows }
}

/** One stream at a time, a long prompt. */
async function measureRatios(bench: Bench) {
  const { options, signal } = bench
  return withEngine(options.model, async (engine, vocabularySize, model) =>
    withBenchCluster({ model: options.model, fpgas: 1 }, signal, async (cluster) => {
      const pairs: { cluster: StreamTimes; engine: StreamTimes }[] = []
      const transfers: KvTransfer[] = []
      for (let round = 0; round <= options.rounds; round++) {
        const work = workOf(model, round, ratioWork, vocabularySize)
        const pair = await alternate(
          round,
          () => clusterStream(cluster.url, work, signal),
          () => engineStream(engine, work, signal),
        )
        const transfer = kvTransferOf((await fetchTrace(cluster.url, pair.cluster.requestId)).spans)
        if (round === 0) continue
        pairs.push(pair)
        if (transfer !== undefined) transfers.push(transfer)
        say(`${options.model}: round ${round} of ${options.rounds}`)
        bench.rows.push(rowOf('ratio', model, round, 1, pair))
      }
      return {
        figures: {
          tpotRatio: median(pairs.map((pair) => pair.cluster.tpotMs / pair.engine.tpotMs)),
          ttftRatio: median(pairs.map((pair) => pair.cluster.ttftMs / pair.engine.ttftMs)),
        },
        unpaced: {
          prefillMs: median(transfers.map((transfer) => transfer.prefillMs)),
          bytes: median(transfers.map((transfer) => transfer.bytes)),
        },
      }
    }),
  )
}

/** A small model, where the cluster's own work shows: one stream, then many at once. */
async function measureStreams(bench: Bench): Promise<Record<string, number>> {
  const { options, signal } = bench
  return withEngine(modelDefault, async (engine, vocabularySize, model) =>
    withBenchCluster({ model: modelDefault, fpgas: 2 }, signal, async (cluster) => {
      const figures: Record<string, number> = {}
      for (const streams of [1, manyStreams]) {
        const overheadMs: number[] = []
        let clusterUs = 0
        let engineUs = 0
        for (let round = 1 - streamsWarmUpRounds; round <= options.rounds; round++) {
          const seed = 1_000 + streams * (1_000 + streamsWarmUpRounds + round)
          const works = Array.from({ length: streams }, (_, index) =>
            workOf(model, seed + index, streamsWork, vocabularySize),
          )
          const pair = await alternate(
            round,
            async () => {
              const pids = cluster.processes().map((process) => process.pid)
              const beforeUs = cpuTimeUs(pids)
              const times = await Promise.all(works.map((work) => clusterStream(cluster.url, work, signal)))
              if (round > 0) clusterUs += cpuTimeUs(pids) - beforeUs
              return medianTimes(times)
            },
            async () => {
              const before = process.cpuUsage()
              const times = await Promise.all(works.map((work) => engineStream(engine, work, signal)))
              const used = process.cpuUsage(before)
              if (round > 0) engineUs += used.user + used.system
              return medianTimes(times)
            },
          )
          if (round < 1) continue
          overheadMs.push(pair.cluster.tpotMs - pair.engine.tpotMs)
          bench.rows.push(rowOf('streams', model, round, streams, pair))
        }
        say(`${model}: ${streams} streams measured`)
        const tokens = options.rounds * streams * streamsWork.newTokens
        const suffix = streams === 1 ? '' : `At${streams}`
        figures[`overheadMsPerToken${suffix}`] = median(overheadMs)
        figures[`clusterCpuUsPerToken${suffix}`] = clusterUs / tokens
        figures[`engineCpuUsPerToken${suffix}`] = engineUs / tokens
      }
      return figures
    }),
  )
}

/** The link held so that transfer takes a given share of prefill's time: layer by layer, and in one push. */
async function measureOverlap(
  bench: Bench,
  unpaced: { prefillMs: number; bytes: number },
): Promise<Record<string, number>> {
  const { options, signal } = bench
  const linkBytesPerSecond = Math.round(unpaced.bytes / ((unpaced.prefillMs / 1000) * transferShare))
  say(`holding the link to ${formatRate(linkBytesPerSecond)} for ${formatBytes(unpaced.bytes)} of KV`)
  const { name: model, vocabularySize } = await loadTextModel(options.model)
  return withBenchCluster({ model: options.model, fpgas: 1, linkBytesPerSecond }, signal, async (cluster) => {
    const layered: KvTransfer[] = []
    const afterPrefill: KvTransfer[] = []
    const transferOf = async (seed: number, timing: string, mergeLayers?: number) => {
      const work = workOf(model, seed, { ...ratioWork, newTokens: 2 }, vocabularySize)
      const headers = { 'x-kvasir-pull-timing': timing }
      const merge = mergeLayers === undefined ? {} : { mergeLayers }
      const { requestId } = await clusterStream(cluster.url, work, signal, { headers, ...merge })
      return kvTransferOf((await fetchTrace(cluster.url, requestId)).spans)
    }
    for (let round = 0; round <= overlapRounds; round++) {
      const seed = 500_000 + round * 8
      for (const [index, timing] of (['layered', 'after-prefill'] as const).entries()) {
        const transfer = await transferOf(seed + index, timing)
        if (round === 0 || transfer === undefined) continue
        ;(timing === 'layered' ? layered : afterPrefill).push(transfer)
        bench.rows.push({ part: 'overlap', model, round, timing, ...roundedFields(transfer) })
      }
      for (const [index, mergeLayers] of MERGE_LAYERS.entries()) {
        const transfer = await transferOf(seed + 2 + index, 'layered', mergeLayers)
        if (round === 0 || transfer === undefined) continue
        bench.rows.push({ part: 'merge', model, round, mergeLayers, ...roundedFields(transfer) })
      }
    }
    return {
      overlap: median(layered.map((transfer) => transfer.overlap)),
      overlapAfterPrefill: median(afterPrefill.map((transfer) => transfer.overlap)),
      transferToPrefill: median(layered.map((transfer) => transfer.transferMs / transfer.prefillMs)),
      linkBytesPerSecond,
    }
  })
}

async function withEngine<T>(
  model: string,
  work: (engine: LocalGenerator, vocabularySize: number, name: string) => Promise<T>,
): Promise<T> {
  say(`loading ${model} into this process …`)
  const { name, vocabularySize } = await loadTextModel(model)
  const engine = await createLocalGenerator({ model })
  try {
    return await work(engine, vocabularySize, name)
  } finally {
    await engine.close()
  }
}

/** Measures both sides, the first one changing from round to round. */
async function alternate(
  round: number,
  cluster: () => Promise<StreamTimes>,
  engine: () => Promise<StreamTimes>,
): Promise<{ cluster: StreamTimes; engine: StreamTimes }> {
  if (round % 2 === 0) {
    const clusterTimes = await cluster()
    return { cluster: clusterTimes, engine: await engine() }
  }
  const engineTimes = await engine()
  return { cluster: await cluster(), engine: engineTimes }
}

function workOf(
  model: string,
  seed: number,
  size: { promptTokens: number; newTokens: number },
  vocabularySize: number,
): StreamWork {
  return { model, promptTokens: promptOf(seed, size.promptTokens, vocabularySize), newTokens: size.newTokens }
}

function medianTimes(times: readonly StreamTimes[]): StreamTimes {
  return {
    ttftMs: median(times.map((time) => time.ttftMs)),
    tpotMs: median(times.map((time) => time.tpotMs)),
    requestId: times[0]?.requestId ?? '',
  }
}

function rowOf(
  part: string,
  model: string,
  round: number,
  streams: number,
  pair: { cluster: StreamTimes; engine: StreamTimes },
): Row {
  return {
    part,
    model,
    round,
    streams,
    clusterTtftMs: rounded(pair.cluster.ttftMs),
    engineTtftMs: rounded(pair.engine.ttftMs),
    clusterTpotMs: rounded(pair.cluster.tpotMs),
    engineTpotMs: rounded(pair.engine.tpotMs),
  }
}

function roundedFields(transfer: KvTransfer): Record<string, number> {
  return Object.fromEntries(Object.entries(transfer).map(([name, value]) => [name, rounded(value)]))
}
