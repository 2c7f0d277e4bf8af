/**
 * `kvasir bench cache`: what a cached prefix is worth, by where it is.
 *
 * Every round takes a prompt that nobody has seen and asks for its first token: cold, with the
 * prefix in the prefilling device, on the other device alone, and in host DRAM alone; and a second
 * unseen prompt with reuse switched off, which says what looking for nothing costs. Figures are
 * medians of per-round ratios. Fetches are held against a plain socket, measured in every round too.
 */
import type { KvReport, PrefixReport, RequestReport } from '@kvasir/coordinator/generation'
import { loadTextModel } from '@kvasir/engine/text/text-model'
import { delay } from '@kvasir/runtime/deferred'
import { DeadlineError, UnavailableError } from '@kvasir/runtime/errors'
import { callApi, callJson } from '../client/api-client.js'
import { generate, ttftMsOf } from '../client/generation.js'
import { formatDuration, formatRate } from '../format.js'
import { say } from '../terminal.js'
import { withBenchCluster } from './bench-cluster.js'
import type { BenchResult } from './bench-result.js'
import { rawTcpBytesPerSecond } from './raw-tcp.js'
import { median, rounded } from './statistics.js'
import { promptOf } from './streams.js'

export interface CacheOptions {
  readonly model: string
  readonly rounds: number
  readonly promptTokens: number
}

const blockTokens = 16
const prefillDevice = 'gpu-0'
const decodeDevice = 'fpga-0'
const hostDevice = 'host-0'
const newTokens = 2
const rawTcpBytes = 256 << 20
/** As a cluster that serves has made them. */
const warmUpFetches = 30
const settleMsMax = 15_000
const pollMs = 5

interface Asked {
  readonly ttftMs: number
  readonly report: RequestReport
}

interface Round {
  readonly cold: Asked
  readonly withoutReuse: Asked
  readonly local: Asked
  readonly other: Asked
  readonly host: Asked
}

/** A round, and what a plain socket moved in it, bytes a second. */
type MeasuredRound = Round & { readonly rawTcp: number }

export async function benchCache(options: CacheOptions, signal: AbortSignal): Promise<BenchResult> {
  const { name: model, vocabularySize } = await loadTextModel(options.model)
  const blocks = Math.floor((options.promptTokens - 1) / blockTokens)
  return withBenchCluster({ model: options.model, fpgas: 1 }, signal, async ({ url }) => {
    const ask = async (seed: number, reuse: boolean): Promise<Asked> => {
      const prompt = promptOf(seed, options.promptTokens, vocabularySize)
      const wish = { model, prompt, chat: false, maxTokens: newTokens, temperature: 0, ignoreEos: true }
      const result = await generate(url, { ...wish, cachePrompt: reuse }, signal)
      const ttftMs = ttftMsOf(result)
      if (ttftMs === undefined) throw new UnavailableError('A request of the bench gave no token.')
      return { ttftMs, report: await callJson<RequestReport>(url, `/v1/requests/${result.requestId}`) }
    }
    const evict = async (device: string, drop: boolean): Promise<void> => {
      // A block that a transfer is still reading stays, so one call may leave some.
      const call = () => callApi(url, '/v1/kv/evict', { method: 'POST', body: { device, drop }, signal })
      await call()
      await settled(url, signal, (held) => held(device) === 0, call)
    }
    /** The first token with the prefix in host memory alone. */
    const fromHost = async (seed: number): Promise<Asked> => {
      await evict(prefillDevice, false)
      await evict(decodeDevice, false)
      await settled(url, signal, (held) => held(hostDevice) >= blocks)
      return ask(2 * seed, true)
    }
    const round = async (seed: number): Promise<Round> => {
      // In turns, so that neither is always the first.
      const withoutFirst = seed % 2 === 0 ? await ask(2 * seed + 1, false) : undefined
      const cold = await ask(2 * seed, true)
      const withoutReuse = withoutFirst ?? (await ask(2 * seed + 1, false))
      await settled(url, signal, (held) => held(prefillDevice) >= blocks && held(decodeDevice) >= blocks)
      const local = await ask(2 * seed, true)
      await evict(prefillDevice, true)
      const other = await ask(2 * seed, true)
      const host = await fromHost(seed)
      // The first prompt is not measured, and its blocks make the way often: transfers are then compiled code.
      for (let turn = 0; seed === 0 && turn < warmUpFetches; turn++) await fromHost(seed)
      for (const device of [prefillDevice, decodeDevice, hostDevice]) await evict(device, true)
      return { cold, withoutReuse, local, other, host }
    }

    const rounds: MeasuredRound[] = []
    for (let index = 0; index <= options.rounds; index++) {
      const measured = { ...(await round(index)), rawTcp: await rawTcpBytesPerSecond(rawTcpBytes) }
      // The first one compiles code and teaches the coordinator what things cost.
      if (index === 0) continue
      rounds.push(measured)
      say(
        `round ${index} of ${options.rounds}: cold ${formatDuration(measured.cold.ttftMs)}, host ${formatDuration(measured.host.ttftMs)}, a plain socket ${formatRate(measured.rawTcp)}`,
      )
    }
    return resultOf(rounds)
  })
}

function resultOf(rounds: readonly MeasuredRound[]): BenchResult {
  const ratio = (of: (round: Round) => Asked, to: (round: Round) => Asked): number =>
    rounded(median(rounds.map((round) => of(round).ttftMs / to(round).ttftMs)))
  const fetches = rounds.flatMap(({ other, host, rawTcp }) =>
    [other, host].flatMap(({ report }) => rateOf(report.prefix).map((rate) => ({ rate, rawTcp }))),
  )
  return {
    figures: {
      coldTtftMs: rounded(median(rounds.map(({ cold }) => cold.ttftMs))),
      localOfCold: ratio(
        ({ local }) => local,
        ({ cold }) => cold,
      ),
      otherOfCold: ratio(
        ({ other }) => other,
        ({ cold }) => cold,
      ),
      hostOfCold: ratio(
        ({ host }) => host,
        ({ cold }) => cold,
      ),
      missOverhead: ratio(
        ({ cold }) => cold,
        ({ withoutReuse }) => withoutReuse,
      ),
      fetchOfLink: rounded(median(fetches.map(({ rate, rawTcp }) => rate / rawTcp))),
      fetchBytesPerSecond: rounded(median(fetches.map(({ rate }) => rate))),
      rawTcpBytesPerSecond: rounded(median(rounds.map(({ rawTcp }) => rawTcp))),
    },
    rows: rounds.flatMap(({ rawTcp, ...round }, index) =>
      Object.entries(round).map(([where, asked]: [string, Asked]) => ({
        ...rowOf(index + 1, where, asked),
        rawTcpBytesPerSecond: rounded(rawTcp),
      })),
    ),
  }
}

function rowOf(round: number, where: string, { ttftMs, report }: Asked): BenchResult['rows'][number] {
  const placement = report.placements.at(-1)
  return {
    round,
    where,
    ttftMs: rounded(ttftMs),
    prefillDevice: placement?.prefillDevice ?? '',
    decodeDevice: placement?.decodeDevice ?? '',
    cachedTokens: report.cachedTokens,
    fetchedBytes: report.prefix?.fetchedBytes ?? 0,
    fetchMs: rounded(report.prefix?.fetchMs ?? 0),
  }
}

function rateOf(prefix: PrefixReport | null): number[] {
  if (prefix === null || prefix.fetchMs === null || prefix.fetchedBytes === 0) return []
  return [prefix.fetchedBytes / (prefix.fetchMs / 1000)]
}

/** Events travel beside requests: waits until the coordinator knows what the devices hold. */
async function settled(
  url: string,
  signal: AbortSignal,
  isThere: (held: (deviceId: string) => number) => boolean,
  again: () => Promise<unknown> = async () => {},
): Promise<void> {
  const end = performance.now() + settleMsMax
  while (performance.now() < end) {
    const { devices } = await callJson<KvReport>(url, '/v1/kv')
    if (isThere((id) => devices.find(({ deviceId }) => deviceId === id)?.directoryBlocks ?? 0)) return
    await delay(pollMs, signal)
    await again()
  }
  throw new DeadlineError(
    'The coordinator did not learn in time which blocks the devices hold: read its log.',
  )
}
