/**
 * `kvasir bench kv`: how fast KV goes from one process into the leased memory of another.
 *
 * One process holds the KV of a prompt in the pool of a real driver (kv-source.ts), another pulls it, prompt after
 * prompt, into leased memory of its own, checks every chunk and writes it to its driver (kv-sink.ts), and takes what
 * a stock gRPC client pushes (kv-pusher.ts). Every round also measures a plain socket between two processes, since the machine changes; figures are medians of per-round
 * ratios.
 */
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { inspectModel } from '@kvasir/engine/model-plan'
import { EXACT } from '@kvasir/engine/numerics'
import { withDeadline } from '@kvasir/runtime/deferred'
import { InternalError } from '@kvasir/runtime/errors'
import { awaitReady, type Child } from '@kvasir/runtime/lifecycle'
import { formatRate } from '../format.js'
import { nodeFlags } from '../supervisor/local-cluster.js'
import { say } from '../terminal.js'
import type { BenchResult } from './bench-result.js'
import { cpuTimeUs } from './cpu-time.js'
import { rawTcpBytesPerSecond, spawnEnd } from './raw-tcp.js'
import { median, rounded } from './statistics.js'

export interface KvOptions {
  readonly model: string
  readonly rounds: number
}

const movedBytesMin = 1 << 30
const promptTokensMax = 4_096
const readyMsMax = 120_000
const roundMsMax = 120_000
/** Not measured: code is compiled, memory is touched. A device that serves has done so long before. */
const warmUpRounds = 3
const stopMsMax = 2_000

interface Round {
  readonly rawTcp: number
  readonly bytesPerSecond: number
  /** CPU time a byte, microseconds, all threads of the process. */
  readonly senderUsPerByte: number
  readonly receiverUsPerByte: number
  /** By a stock gRPC client, bytes a second. */
  readonly pushed: number
}

export async function benchKv(options: KvOptions, signal: AbortSignal): Promise<BenchResult> {
  const { model } = options
  const { contextTokensMax, poolBlockBytes } = await inspectModel({ model, numerics: EXACT })
  const blocks = Math.floor(Math.min(contextTokensMax, promptTokensMax) / BLOCK_TOKENS)
  const prompts = Math.ceil(movedBytesMin / (blocks * poolBlockBytes))
  const bytes = prompts * blocks * poolBlockBytes
  say(`loading ${model} in two processes …`)
  const transfers = (options.rounds + warmUpRounds) * prompts
  return withEnd('kv-source', [model, blocks, transfers], async (source, { endpoint }) =>
    withEnd('kv-sink', [model, blocks, prompts, String(endpoint)], async (sink, facts) => {
      const rounds: Round[] = []
      for (let number = 1 - warmUpRounds; number <= options.rounds; number += 1) {
        signal.throwIfAborted()
        const rawTcp = await rawTcpBytesPerSecond(bytes)
        const moved = await move(source, sink, Number(facts.port), bytes)
        const pushed = await withEnd(
          'kv-pusher',
          [blocks, prompts, JSON.stringify(facts)],
          async (_, end) => end,
        )
        const round = { rawTcp, ...moved, pushed: Number(pushed.bytesPerSecond) }
        if (number < 1) continue
        rounds.push(round)
        say(
          `round ${number} of ${options.rounds}: KV ${formatRate(round.bytesPerSecond)}, pushed ${formatRate(round.pushed)}, a plain socket ${formatRate(rawTcp)}`,
        )
      }
      return resultOf(rounds, bytes)
    }),
  )
}

/** Runs `work` while a script of this folder serves as one of the ends. */
async function withEnd<T>(
  name: string,
  args: readonly (string | number)[],
  work: (child: Child, facts: Readonly<Record<string, unknown>>) => Promise<T>,
): Promise<T> {
  const child = spawnEnd(name, args.map(String), nodeFlags)
  try {
    return await work(child, await awaitReady(child, readyMsMax))
  } finally {
    await child.stop(stopMsMax)
  }
}

/** Has the sink pull everything once. */
async function move(
  source: Child,
  sink: Child,
  port: number,
  bytes: number,
): Promise<Omit<Round, 'rawTcp' | 'pushed'>> {
  const before = { source: cpuTimeUs([source.pid]), sink: cpuTimeUs([sink.pid]) }
  const answer = await withDeadline(text(connect(port, '127.0.0.1')), roundMsMax, 'pulling KV')
  const moved: { bytes?: number; seconds: number; error?: string } = JSON.parse(answer)
  if (moved.bytes !== bytes) {
    throw new InternalError(moved.error ?? `${moved.bytes} bytes were moved instead of ${bytes}.`)
  }
  return {
    bytesPerSecond: bytes / moved.seconds,
    senderUsPerByte: (cpuTimeUs([source.pid]) - before.source) / bytes,
    receiverUsPerByte: (cpuTimeUs([sink.pid]) - before.sink) / bytes,
  }
}

function resultOf(rounds: readonly Round[], bytes: number): BenchResult {
  const middle = (value: (round: Round) => number) => rounded(median(rounds.map(value)))
  // Microseconds a byte are thousands of seconds a GB.
  const perGb = 1_000
  return {
    figures: {
      ofRawTcp: middle(({ bytesPerSecond, rawTcp }) => bytesPerSecond / rawTcp),
      bytesPerSecond: middle(({ bytesPerSecond }) => bytesPerSecond),
      rawTcpBytesPerSecond: middle(({ rawTcp }) => rawTcp),
      pushOfRawTcp: middle(({ pushed, rawTcp }) => pushed / rawTcp),
      senderCpuSPerGb: middle(({ senderUsPerByte }) => senderUsPerByte * perGb),
      receiverCpuSPerGb: middle(({ receiverUsPerByte }) => receiverUsPerByte * perGb),
      movedBytes: bytes,
    },
    rows: rounds.map((round, index) => ({
      round: index + 1,
      bytesPerSecond: rounded(round.bytesPerSecond),
      rawTcpBytesPerSecond: rounded(round.rawTcp),
      pushBytesPerSecond: rounded(round.pushed),
      senderCpuSPerGb: rounded(round.senderUsPerByte * perGb),
      receiverCpuSPerGb: rounded(round.receiverUsPerByte * perGb),
    })),
  }
}
