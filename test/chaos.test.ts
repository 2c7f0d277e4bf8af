/**
 * A real cluster under a random schedule of faults: agents killed and restarted, stopped and continued,
 * nats-server killed and restarted, clients that leave. Every stream whose client stayed equals the
 * engine's own text, or ends with one clear error where no device was left; nothing stays held.
 *
 * The seed is in the name of what fails; KVASIR_CHAOS_SEED plays its plan again. The plan is the same for
 * a seed, the timing of the processes is not.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { createLocalGenerator } from '@kvasir/engine/local-generator'
import { loadTextModel } from '@kvasir/engine/text/text-model'
import { deferred } from '@kvasir/runtime/deferred'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fpga, gpu, skald, TestCluster, until, untilIdle } from './support/cluster.js'
import { type RawStream, readRawStream } from './support/raw-stream.js'

const seed = Number(process.env.KVASIR_CHAOS_SEED ?? Math.floor(Math.random() * 1e9))
const placementDeadlineMs = 3_000
const streamCount = 14
const faultCount = 10
/** Streams and faults begin within this time. */
const scheduleMs = 4_000
const devices = ['gpu-0', 'fpga-0', 'fpga-1']
const words = 'the king wolf fox said road went on a story of old stones and rain'.split(' ')

interface StreamPlan {
  readonly startMs: number
  readonly prompt: string
  readonly maxTokens: number
  readonly temperature: number
  readonly seed: number
  /** The client leaves after so many chunks. */
  readonly leavesAfter: number | undefined
}

type Fault =
  | { readonly kind: 'kill' | 'stop'; readonly atMs: number; readonly forMs: number; readonly device: string }
  | { readonly kind: 'nats'; readonly atMs: number; readonly forMs: number }

/** A small generator of random numbers (mulberry32): the same seed, the same plan. */
function randomNumbers(start: number): () => number {
  let state = start | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

const random = randomNumbers(seed)
const between = (least: number, most: number) => Math.floor(least + random() * (most - least + 1))
const oneOf = <T>(items: readonly T[]): T => items[between(0, items.length - 1)] as T

const streams: readonly StreamPlan[] = Array.from({ length: streamCount }, () => ({
  startMs: between(0, scheduleMs),
  prompt: Array.from({ length: oneOf([3, 20, 80, 250]) }, () => oneOf(words)).join(' '),
  maxTokens: between(50, 280),
  temperature: oneOf([0, 0, 0.7, 1.3]),
  seed: between(0, 1e6),
  leavesAfter: random() < 0.2 ? between(1, 60) : undefined,
}))
const faults: readonly Fault[] = Array.from({ length: faultCount }, (): Fault => {
  const atMs = between(0, scheduleMs)
  const kind = oneOf(['kill', 'kill', 'stop', 'stop', 'nats'] as const)
  if (kind === 'nats') return { kind, atMs, forMs: between(0, 2_000) }
  return { kind, atMs, forMs: between(0, kind === 'stop' ? 2_800 : 1_200), device: oneOf(devices) }
})

let cluster: TestCluster
let undisturbed: readonly string[]

beforeAll(async () => {
  cluster = await TestCluster.start({
    agents: [gpu(), fpga('fpga-0'), fpga('fpga-1')],
    coordinatorFlags: ['--placement-deadline-ms', String(placementDeadlineMs)],
  })
  undisturbed = await localTexts()
})
afterAll(() => cluster?.stop())

test(`seed ${seed}: streams survive a random schedule of faults`, { timeout: 60_000 }, async () => {
  const outage = new OutageClock()
  const began = performance.now()
  const at = (ms: number) => sleep(Math.max(0, began + ms - performance.now()))
  const openAll = streams.map(async (plan) => {
    await at(plan.startMs)
    const darkBefore = outage.darkMs()
    const stream = await openStream(plan)
    return { stream, darkMs: outage.darkMs() - darkBefore }
  })
  const [ended] = await Promise.all([Promise.all(openAll), applyFaults(at, outage)])
  for (const [i, { stream, darkMs }] of ended.entries()) {
    const plan = streams[i] as StreamPlan
    const what = `seed ${seed}, stream ${i} (${stream.requestId}), ${JSON.stringify(plan).slice(0, 120)}`
    if (stream.left) continue
    if (stream.error === undefined) {
      expect(stream.text, what).toBe(undisturbed[i])
      expect([stream.finishReasons, stream.doneCount], what).toEqual([['length'], 1])
      expect(stream.completionTokens, what).toBe(plan.maxTokens)
    } else {
      expect(darkMs, `${what}: ${stream.error.message}`).toBeGreaterThan(1_000)
      expectClearError(stream, what)
      expect(undisturbed[i]?.startsWith(stream.text), what).toBe(true)
    }
  }
  await cluster.untilDevicesReady(devices)
  await untilIdle(cluster)
  await expectTracesWithoutOrphans()
})

test(`seed ${seed}: a stream that no device is left for ends with one clear error`, async () => {
  const plan: StreamPlan = {
    ...{ startMs: 0, prompt: 'the king said', maxTokens: 900, temperature: 0, seed: 1 },
    leavesAfter: undefined,
  }
  const killed = deferred<void>()
  const running = openStream(plan, (chunks) => {
    if (chunks === 20)
      void Promise.all(devices.map((name) => cluster.kill(name))).then(() => killed.resolve())
  })
  await killed.promise
  const lateAtMs = performance.now()
  const [stream, refused] = await Promise.all([running, openStream(plan)])
  expect(performance.now() - lateAtMs).toBeLessThan(placementDeadlineMs + 1_500)
  expectClearError(stream, 'in mid-stream')
  expectClearError(refused, 'before the first token')
  expect([stream.status, refused.status, refused.retryAfter]).toEqual([200, 503, '1'])
  await Promise.all(devices.map((name) => cluster.startAgent(name)))
  await cluster.untilDevicesReady(devices)
  await untilIdle(cluster)
  await expectTracesWithoutOrphans()
})

function openStream(plan: StreamPlan, onChunk?: (chunks: number) => void): Promise<RawStream> {
  return readRawStream(cluster.url, {
    body: {
      ...{ model: 'skald', prompt: plan.prompt, max_tokens: plan.maxTokens, seed: plan.seed },
      ...{ temperature: plan.temperature, ignore_eos: true },
    },
    leavesAfter: plan.leavesAfter,
    onChunk,
  })
}

function expectClearError(stream: RawStream, what: string): void {
  expect(stream.error, what).toMatchObject({
    type: 'service_unavailable_error',
    code: 'unavailable',
    message: expect.stringMatching(/try again/i),
  })
  expect([stream.errorCount, stream.doneCount, stream.finishReasons], what).toEqual([1, 0, []])
}

async function localTexts(): Promise<string[]> {
  const [local, text] = await Promise.all([createLocalGenerator({ model: skald }), loadTextModel(skald)])
  try {
    return await Promise.all(
      streams.map(async ({ prompt, maxTokens, temperature, seed }) => {
        const decoder = text.decoder()
        const sampling = {
          temperature,
          topP: 1,
          topK: 0,
          seed: BigInt(seed),
          logprobs: false,
          topLogprobs: 0,
        }
        const options = { maxTokens, stopTokens: [], sampling }
        let result = ''
        for await (const token of local.generate(text.encode(prompt), options))
          result += decoder.push(token.id)
        return result + decoder.flush()
      }),
    )
  } finally {
    await local.close()
  }
}

/** Adds up the time in which no device could serve. */
class OutageClock {
  readonly #down = new Set<string>()
  #darkSince: number | undefined
  #darkBefore = 0

  set(device: string, isDown: boolean): void {
    if (isDown) this.#down.add(device)
    else this.#down.delete(device)
    const isDark = this.#down.size === devices.length
    if (isDark) this.#darkSince ??= performance.now()
    else {
      this.#darkBefore = this.darkMs()
      this.#darkSince = undefined
    }
  }

  darkMs(): number {
    return this.#darkBefore + (this.#darkSince === undefined ? 0 : performance.now() - this.#darkSince)
  }
}

/** Each device, and NATS, has its faults one after the other; different ones overlap. */
async function applyFaults(at: (ms: number) => Promise<unknown>, outage: OutageClock): Promise<void> {
  const targets = new Map<string, Fault[]>()
  for (const fault of [...faults].sort((a, b) => a.atMs - b.atMs)) {
    const target = fault.kind === 'nats' ? 'nats' : fault.device
    targets.set(target, [...(targets.get(target) ?? []), fault])
  }
  const applyAll = async (ofTarget: readonly Fault[]) => {
    for (const fault of ofTarget) {
      await at(fault.atMs)
      await apply(fault, outage)
    }
  }
  await Promise.all([...targets.values()].map(applyAll))
}

async function apply(fault: Fault, outage: OutageClock): Promise<void> {
  if (fault.kind === 'nats') {
    await cluster.killNats()
    await sleep(fault.forMs)
    await cluster.startNats()
    return
  }
  const { device } = fault
  outage.set(device, true)
  if (fault.kind === 'kill') {
    await cluster.kill(device)
    await sleep(fault.forMs)
    await cluster.startAgent(device)
  } else {
    cluster.processes.get(device)?.kill('SIGSTOP')
    await sleep(fault.forMs)
    cluster.processes.get(device)?.kill('SIGCONT')
  }
  await cluster.untilDevicesReady([device])
  outage.set(device, false)
}

interface TraceBody {
  readonly spans: readonly { spanId: string; parentSpanId: string | null; name: string }[]
}

async function expectTracesWithoutOrphans(): Promise<void> {
  const { data } = (await cluster.json('/v1/traces?limit=1000')) as { data: { traceId: string }[] }
  expect(data.length).toBeGreaterThanOrEqual(streamCount)
  for (const { traceId } of data) {
    let orphans: unknown[] = []
    await until(`trace ${traceId} is whole (seed ${seed})`, async () => {
      const { spans } = (await cluster.json(`/v1/traces/${traceId}`)) as TraceBody
      const ids = new Set(spans.map(({ spanId }) => spanId))
      orphans = spans.filter(({ parentSpanId }) => parentSpanId !== null && !ids.has(parentSpanId))
      return orphans.length === 0 && spans.filter(({ name }) => name === 'request').length === 1
    })
  }
}
