/**
 * A real cluster under a random schedule of faults: agents killed and restarted, stopped and continued,
 * caches emptied, nats-server killed and restarted, clients that leave; while prompts share their beginnings,
 * small memories spill into the host tier, and devices attend for each other. Every stream whose client stayed
 * equals the engine's own text, or ends with one clear error where no device was left; nothing stays held.
 *
 * The seed is in the name of what fails; KVASIR_CHAOS_SEED plays its plan again. The plan is the same for
 * a seed, the timing of the processes is not.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { createLocalGenerator } from '@kvasir/engine/local-generator'
import { loadTextModel } from '@kvasir/engine/text/text-model'
import { deferred } from '@kvasir/runtime/deferred'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { chaosPlan, type Fault, plain, type StreamPlan } from './support/chaos-plan.js'
import { fpga, gpu, host, skald, TestCluster, until, untilIdle } from './support/cluster.js'
import { type RawStream, readRawStream } from './support/raw-stream.js'

const seed = Number(process.env.KVASIR_CHAOS_SEED ?? Math.floor(Math.random() * 1e9))
/**
 * Longer than any fault, and than what waits for memory waits: on a busy machine devices are also silent for a while
 * without one, and each has room for a few requests.
 */
const placementDeadlineMs = 10_000
const devices = ['gpu-0', 'fpga-0', 'fpga-1']
const tier = 'host-0'
const { streams, faults } = chaosPlan(seed, devices, tier)
/** Room for a few requests at a time, so that caches overflow into the host tier, and that into nothing. */
const bytes = (flag: string, megabytes: number) => [flag, String(megabytes * 1_000_000)]
const fpgaTiers = [...bytes('--tier-bytes', 5), ...bytes('--ddr-bytes', 9)]

let cluster: TestCluster
let undisturbed: readonly string[]
/** Of all layers. */
let blockBytes: number

beforeAll(async () => {
  cluster = await TestCluster.start({
    agents: [
      gpu('gpu-0', bytes('--tier-bytes', 12)),
      fpga('fpga-0', fpgaTiers),
      fpga('fpga-1', fpgaTiers),
      host(tier, bytes('--tier-bytes', 6)),
    ],
    coordinatorFlags: ['--placement-deadline-ms', String(placementDeadlineMs)],
  })
  undisturbed = await localTexts()
})
afterAll(() => cluster?.stop())

test(`seed ${seed}: streams survive a random schedule of faults`, { timeout: 90_000 }, async () => {
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
  await cluster.untilDevicesReady([...devices, tier])
  await untilIdle(cluster)
  await expectConsistentTiers()
  await expectTracesWithoutOrphans()
})

test(`seed ${seed}: a stream that no device is left for ends with one clear error`, {
  timeout: 60_000,
}, async () => {
  const plan: StreamPlan = {
    ...{ startMs: 0, prompt: 'the king said', maxTokens: 900, temperature: 0, seed: 1 },
    ...{ attention: plain, leavesAfter: undefined },
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

/** What devices hold and what the directory thinks they hold agree, and all of it can be given up. */
async function expectConsistentTiers(): Promise<void> {
  let fills = await tierFills()
  await until('the directory knows what each device holds', async () => {
    fills = await tierFills()
    return fills.every(({ leased, cached, known }) => leased === 0 && cached === known)
  }).catch((cause) => {
    throw new Error(`seed ${seed}: directory and devices disagree: ${JSON.stringify(fills)}`, { cause })
  })
  for (const { name, cached, capacity } of await tierFills()) {
    expect(cached, `seed ${seed}, ${name}`).toBeLessThanOrEqual(capacity)
  }
  await until('all devices have given up what they cached', async () => {
    await cluster.json('/v1/kv/evict', { drop: true })
    return (await tierFills()).every(({ cached, known }) => cached === 0 && known === 0)
  })
}

/** In bytes. */
async function tierFills() {
  const { devices } = (await cluster.json('/v1/kv')) as KvBody
  return devices.map(({ deviceId, directoryBlocks, tiers }) => {
    const sum = (of: (tier: KvBody['devices'][number]['tiers'][number]) => number) =>
      tiers.reduce((total, tier) => total + of(tier), 0)
    return {
      name: deviceId,
      known: directoryBlocks * blockBytes,
      leased: sum(({ leasedBytes }) => leasedBytes),
      cached: sum(({ cachedBytes }) => cachedBytes),
      capacity: sum(({ capacityBytes }) => capacityBytes),
    }
  })
}

function openStream(plan: StreamPlan, onChunk?: (chunks: number) => void): Promise<RawStream> {
  return readRawStream(cluster.url, {
    body: {
      ...{ model: 'skald', prompt: plan.prompt, max_tokens: plan.maxTokens, seed: plan.seed },
      ...{ temperature: plan.temperature, ignore_eos: true, attention: plan.attention.field },
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
  blockBytes = local.facts.layers * local.facts.blockLayerBytes
  try {
    return await Promise.all(
      streams.map(async ({ prompt, maxTokens, temperature, seed, attention: { local: attention } }) => {
        const decoder = text.decoder()
        const sampling = {
          temperature,
          topP: 1,
          topK: 0,
          seed: BigInt(seed),
          logprobs: false,
          topLogprobs: 0,
        }
        const options = {
          maxTokens,
          stopTokens: [],
          sampling,
          ...(attention === undefined ? {} : { attention }),
        }
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

/** Adds up the time in which one device at most could serve, which may have had no room for all. */
class OutageClock {
  readonly #down = new Set<string>()
  #darkSince: number | undefined
  #darkBefore = 0

  set(device: string, isDown: boolean): void {
    if (!devices.includes(device)) return
    if (isDown) this.#down.add(device)
    else this.#down.delete(device)
    const isDark = this.#down.size >= devices.length - 1
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
  if (fault.kind === 'evict') {
    // Refused where the device is down; where it stands still there is a deadline.
    await cluster.json('/v1/kv/evict', { device, drop: fault.drop }).catch(() => undefined)
    return
  }
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

interface KvBody {
  readonly devices: readonly {
    readonly deviceId: string
    readonly directoryBlocks: number
    readonly tiers: readonly { leasedBytes: number; cachedBytes: number; capacityBytes: number }[]
  }[]
}

interface TraceBody {
  readonly spans: readonly { spanId: string; parentSpanId: string | null; name: string }[]
}

async function expectTracesWithoutOrphans(): Promise<void> {
  const { data } = (await cluster.json('/v1/traces?limit=1000')) as { data: { traceId: string }[] }
  expect(data.length).toBeGreaterThanOrEqual(streams.length)
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
