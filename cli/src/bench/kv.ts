/**
 * `kvasir bench kv`: how fast KV goes from one process into the leased memory of another.
 *
 * A process of its own holds the KV of a prompt in the pool of a real driver. This one, whose pool is as large as
 * all that is moved, leases memory, opens a Pull as a decoding device does, checks every chunk and writes it to its
 * driver, prompt after prompt until everything is here. Every round also measures a plain socket between two
 * processes, since the machine changes; figures are medians of per-round ratios.
 */
import { pullKv } from '@kvasir/agent/incoming-transfer'
import { runWriter, shapeOf } from '@kvasir/agent/kv-shape'
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { inspectModel } from '@kvasir/engine/model-plan'
import { EXACT } from '@kvasir/engine/numerics'
import { Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import {
  KvServiceClient,
  type Lease,
  LeasePurpose,
  PullContent,
  PullTiming,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import { InternalError } from '@kvasir/runtime/errors'
import { awaitReady } from '@kvasir/runtime/lifecycle'
import { callUnary, createRpcClient } from '@kvasir/runtime/rpc-client'
import { formatRate } from '../format.js'
import { say } from '../terminal.js'
import { type BenchDevice, withBenchDevice } from './bench-device.js'
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
const sourceReadyMsMax = 120_000
const stopMsMax = 2_000

/** What is moved: so many prompts of so many blocks. */
interface Work {
  readonly blocks: number
  readonly prompts: number
  readonly bytes: number
}

interface Moved {
  readonly bytesPerSecond: number
  /** CPU time a byte, microseconds, all threads of the process. */
  readonly senderUsPerByte: number
  readonly receiverUsPerByte: number
}

type Round = Moved & { readonly rawTcp: number }

export async function benchKv(options: KvOptions, signal: AbortSignal): Promise<BenchResult> {
  const { model } = options
  const { contextTokensMax, poolBlockBytes } = await inspectModel({ model, numerics: EXACT })
  const blocks = Math.floor(Math.min(contextTokensMax, promptTokensMax) / BLOCK_TOKENS)
  const prompts = Math.ceil(movedBytesMin / (blocks * poolBlockBytes))
  const work = { blocks, prompts, bytes: prompts * blocks * poolBlockBytes }
  say(`loading ${model} in two processes …`)
  const transfers = (options.rounds + 1) * prompts
  const source = spawnEnd('kv-source', [model, String(blocks), String(transfers)])
  try {
    const { endpoint } = await awaitReady(source, sourceReadyMsMax)
    return await withBenchDevice(model, prompts * blocks, async (device) => {
      const rounds: Round[] = []
      for (let number = 0; number <= options.rounds; number += 1) {
        signal.throwIfAborted()
        const rawTcp = await rawTcpBytesPerSecond(work.bytes)
        const pull = { endpoint: String(endpoint), pid: source.pid, first: number * prompts, signal }
        const round = { ...(await move(device, work, pull)), rawTcp }
        // The first one compiles code.
        if (number === 0) continue
        rounds.push(round)
        say(
          `round ${number} of ${options.rounds}: KV ${formatRate(round.bytesPerSecond)}, a plain socket ${formatRate(rawTcp)}`,
        )
      }
      return resultOf(rounds, work)
    })
  } finally {
    await source.stop(stopMsMax)
  }
}

interface PullWish {
  readonly endpoint: string
  /** Process of the sender. */
  readonly pid: number
  /** Number of the first transfer. */
  readonly first: number
  readonly signal: AbortSignal
}

/** Pulls all prompts, one after the other, each into memory of its own. */
async function move(device: BenchDevice, { blocks, prompts, bytes }: Work, wish: PullWish): Promise<Moved> {
  const client = createRpcClient(KvServiceClient, device.control.address)
  const { runner } = device.served
  const leases: Lease[] = []
  try {
    const cpuBefore = { sender: cpuTimeUs([wish.pid]), receiver: cpuTimeUs([process.pid]) }
    const begin = performance.now()
    let moved = 0
    for (let prompt = 0; prompt < prompts; prompt += 1) {
      const number = wish.first + prompt
      const lease = await reserve(client, device, `bench-${number}`, blocks)
      // Until the end: a lease that no stream uses is over soon, and its memory would serve the next prompt.
      runner.apply({ type: 'pin', counter: lease.counter })
      leases.push(lease)
      moved += await pull(device, lease, `kv-${number}`, blocks, wish)
    }
    const seconds = (performance.now() - begin) / 1_000
    if (moved !== bytes) throw new InternalError(`${moved} bytes were moved instead of ${bytes}.`)
    return {
      bytesPerSecond: bytes / seconds,
      senderUsPerByte: (cpuTimeUs([wish.pid]) - cpuBefore.sender) / bytes,
      receiverUsPerByte: (cpuTimeUs([process.pid]) - cpuBefore.receiver) / bytes,
    }
  } finally {
    for (const lease of leases) {
      runner.apply({ type: 'unpin', counter: lease.counter })
      await callUnary(client, 'release', { lease })
    }
    client.close()
  }
}

async function reserve(
  client: KvServiceClient,
  { served }: BenchDevice,
  requestId: string,
  blocks: number,
): Promise<Lease> {
  const { lease } = await callUnary(client, 'reserve', {
    requestId,
    epoch: 1,
    modelDigest: served.model.digest,
    profile: Profile.EXACT,
    tokens: blocks * BLOCK_TOKENS,
    purpose: LeasePurpose.ATTEND,
  })
  if (lease === undefined) throw new InternalError('Reserve gave no lease.')
  return lease
}

/** The bytes of one prompt, as a decoding device brings them in. */
async function pull(
  { device, served }: BenchDevice,
  lease: Lease,
  transferId: string,
  blocks: number,
  { endpoint, signal }: PullWish,
): Promise<number> {
  const { limits, clock } = device
  const { bytes } = await pullKv({
    client: device.kvClient(endpoint),
    sourceDeviceId: 'kv-source',
    wanted: {
      transferId,
      timing: PullTiming.LAYERED,
      tokens: blocks * BLOCK_TOKENS,
      firstBlock: 0,
      content: PullContent.KV,
    },
    shape: shapeOf(served),
    lease,
    windowBytes: limits.windowBytes,
    write: runWriter(served.driver, served.runner.blocks(lease.counter)),
    clock,
    silenceMs: limits.silenceMs,
    signal,
  })
  return bytes
}

function resultOf(rounds: readonly Round[], { bytes }: Work): BenchResult {
  const middle = (value: (round: Round) => number) => rounded(median(rounds.map(value)))
  // Microseconds a byte are thousands of seconds a GB.
  const perGb = 1_000
  return {
    figures: {
      ofRawTcp: middle(({ bytesPerSecond, rawTcp }) => bytesPerSecond / rawTcp),
      bytesPerSecond: middle(({ bytesPerSecond }) => bytesPerSecond),
      rawTcpBytesPerSecond: middle(({ rawTcp }) => rawTcp),
      senderCpuSPerGb: middle(({ senderUsPerByte }) => senderUsPerByte * perGb),
      receiverCpuSPerGb: middle(({ receiverUsPerByte }) => receiverUsPerByte * perGb),
      movedBytes: bytes,
    },
    rows: rounds.map((round, index) => ({
      round: index + 1,
      bytesPerSecond: rounded(round.bytesPerSecond),
      rawTcpBytesPerSecond: rounded(round.rawTcp),
      senderCpuSPerGb: rounded(round.senderUsPerByte * perGb),
      receiverCpuSPerGb: rounded(round.receiverUsPerByte * perGb),
    })),
  }
}
