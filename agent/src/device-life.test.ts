/** One device over real gRPC: leases, limits, cancels, preemption, drain, and what it refuses. */

import { type Deferred, deferred } from '@kvasir/runtime/deferred'
import {
  InternalError,
  KvasirError,
  LeaseExpiredError,
  OverloadedError,
  UnavailableError,
} from '@kvasir/runtime/errors'
import { callServerStream, callUnary } from '@kvasir/runtime/rpc-client'
import { afterEach, describe, expect, it } from 'vitest'
import type { KvChange } from './kv-index.js'
import { expectedTokens, FAKE_VOCABULARY } from './testing/fake-driver.js'
import {
  GREEDY,
  onlyModel,
  promptOf,
  readDecode,
  readPrefill,
  TestDevice,
  type TestDeviceOptions,
} from './testing/test-devices.js'

const started: TestDevice[] = []

async function start(
  options: Omit<TestDeviceOptions, 'deviceId'> & { deviceId?: string },
): Promise<TestDevice> {
  const device = await TestDevice.start({ deviceId: 'fpga-0', ...options })
  started.push(device)
  return device
}

afterEach(async () => {
  await Promise.all(started.splice(0).map((device) => device.stop()))
})

async function failureOf(work: Promise<unknown>): Promise<KvasirError> {
  const outcome = await work.then(
    () => undefined,
    (error: unknown) => error,
  )
  if (outcome instanceof KvasirError) return outcome
  throw new Error('It did not fail')
}

/** Holds the device before each layer of long steps until released. */
class StepGate {
  armed = false
  readonly reached: Deferred<void> = deferred()
  private readonly open: Deferred<void> = deferred()

  readonly beforeLayer = async (layer: number, rows: number): Promise<void> => {
    await new Promise((resolve) => setImmediate(resolve))
    if (!this.armed || layer !== 1 || rows < 100) return
    this.reached.resolve()
    await this.open.promise
  }

  release(): void {
    this.armed = false
    this.open.resolve()
  }
}

describe('a device alone', () => {
  it('prefills and decodes by itself, extending its lease ahead of need', async () => {
    const device = await start({})
    const prompt = promptOf(70)
    const lease = await device.reserve('alone', 80)
    const story = await readDecode(device.decode('alone', lease, prompt, { maxTokens: 600 }))
    expect(story.tokens).toEqual(expectedTokens(prompt, 600))
    expect(story.indices[0]).toBe(0)
    expect(story.finished?.reason).toBe('FINISH_REASON_LENGTH')
    await device.empty()
  })

  it('ends with length at the end of the context', async () => {
    const device = await start({ fake: { contextTokensMax: 50 } })
    const prompt = promptOf(40)
    const lease = await device.reserve('context', 50)
    const story = await readDecode(device.decode('context', lease, prompt, { maxTokens: 600 }))
    expect(story.tokens).toEqual(expectedTokens(prompt, 10))
    expect(story.finished?.reason).toBe('FINISH_REASON_LENGTH')
  })

  it('does not stall a decode while a long prompt is prefilled', async () => {
    const rows: number[] = []
    const beforeLayer = async (layer: number, count: number) => {
      if (layer === 0) rows.push(count)
      await new Promise((resolve) => setImmediate(resolve))
    }
    const device = await start({ fake: { beforeLayer } })
    const first = await device.reserve('decodes', 200)
    const second = await device.reserve('prefills', 1_100)
    const decoding = readDecode(device.decode('decodes', first, promptOf(20), { maxTokens: 150 }))
    const long = promptOf(1_000, 2)
    const prefilling = readDecode(device.decode('prefills', second, long, { maxTokens: 3 }))
    expect((await prefilling).tokens).toEqual(expectedTokens(long, 3))
    expect((await decoding).tokens).toEqual(expectedTokens(promptOf(20), 150))
    // A decode's row and one to four blocks of the prompt.
    const shared = rows.filter((count) => count > 16 && count <= 65)
    expect(shared.length).toBeGreaterThan(5)
  })
})

describe('leases', () => {
  it('of an earlier life are refused', async () => {
    const before = await start({ deviceId: 'fpga-7' })
    const old = await before.reserve('restart', 40)
    await before.stop()
    started.splice(started.indexOf(before), 1)
    const device = await start({ deviceId: 'fpga-7' })
    const failure = await failureOf(readDecode(device.decode('restart', old, promptOf(20), { maxTokens: 4 })))
    expect(failure).toBeInstanceOf(LeaseExpiredError)
    expect(failure.message).toContain('earlier life')
    expect(device.serving.device.incarnation).toBeGreaterThan(old.incarnation)
    await expect(callUnary(device.kv, 'release', { lease: old })).rejects.toBeInstanceOf(LeaseExpiredError)
  })

  it('end after their time, by release, and by a newer epoch', async () => {
    const short = await start({ limits: { leaseTtlMs: 50 } })
    await short.reserve('expires', 40)
    await short.empty()
    const device = await start({ deviceId: 'fpga-1', decodeSlots: 2, limits: { leaseTtlMs: 700 } })
    const lease = await device.reserve('released', 40)
    await expect(callUnary(device.kv, 'extend', { lease, tokens: 100 })).resolves.toEqual({ tokens: 112 })
    await expect(callUnary(device.kv, 'release', { lease })).resolves.toEqual({ wasAlive: true })
    await expect(callUnary(device.kv, 'release', { lease })).resolves.toEqual({ wasAlive: false })
    const older = await device.reserve('placed', 40, 1)
    await device.reserve('placed', 40, 2)
    const failure = await failureOf(readDecode(device.decode('placed', older, promptOf(9), { maxTokens: 2 })))
    expect(failure).toBeInstanceOf(LeaseExpiredError)
    expect(await failureOf(device.reserve('placed', 40, 1))).toBeInstanceOf(LeaseExpiredError)
    await device.empty()
  })

  it('are refused when slots or memory are short, and taken again when they are not', async () => {
    const device = await start({ blocks: 10, decodeSlots: 2 })
    const lease = await device.reserve('a', 100)
    expect(await failureOf(device.reserve('b', 100))).toMatchObject({
      code: 'overloaded',
      ids: { reason: 'memory' },
    })
    await device.reserve('c', 30)
    expect(await failureOf(device.reserve('d', 10))).toMatchObject({
      code: 'overloaded',
      ids: { reason: 'slots' },
    })
    expect(await failureOf(device.reserve('e', 161))).toMatchObject({ code: 'invalid_input' })
    await callUnary(device.kv, 'release', { lease })
    await device.reserve('b', 100)
  })

  it('preempt the latest sequence when memory is short', async () => {
    const device = await start({ blocks: 12 })
    const first = await device.reserve('first', 64)
    const second = await device.reserve('second', 64)
    const [elder, younger] = await Promise.all([
      readDecode(device.decode('first', first, promptOf(50), { maxTokens: 100 })),
      readDecode(device.decode('second', second, promptOf(50, 2), { maxTokens: 100 })),
    ])
    expect(elder.tokens).toEqual(expectedTokens(promptOf(50), 100))
    expect(younger.finished?.reason).toBe('FINISH_REASON_PREEMPTED')
    expect(younger.tokens).toEqual(expectedTokens(promptOf(50, 2), younger.tokens.length))
    await device.empty()
  })
})

describe('a call that is cancelled', () => {
  it('frees everything within a second, in the middle of a long prefill chunk', async () => {
    const gate = new StepGate()
    const device = await start({ fake: { beforeLayer: gate.beforeLayer } })
    gate.armed = true
    const abort = new AbortController()
    const reading = failureOf(
      readPrefill(device.prefill('cancelled', promptOf(900), { signal: abort.signal })),
    )
    await gate.reached.promise
    abort.abort()
    expect((await reading).code).toBe('cancelled')
    gate.release()
    await device.empty()
    const lease = await device.reserve('after', 60)
    const story = await readDecode(device.decode('after', lease, promptOf(50), { maxTokens: 5 }))
    expect(story.tokens).toEqual(expectedTokens(promptOf(50), 5))
  })

  it('frees everything while it decodes, and while it waits for memory', async () => {
    const device = await start({ blocks: 10 })
    const abort = new AbortController()
    const lease = await device.reserve('decoding', 150)
    const stream = device.decode('decoding', lease, promptOf(20), { maxTokens: 120, signal: abort.signal })
    const waiting = failureOf(readPrefill(device.prefill('waits', promptOf(100), { signal: abort.signal })))
    await stream.next()
    expect(onlyModel(device.serving).load()).toMatchObject({ leases: 1, sequences: 2 })
    abort.abort()
    expect((await waiting).code).toBe('cancelled')
    await device.empty()
  })
})

describe('a consumer that does not read', () => {
  it('ends its own sequence and slows nobody', async () => {
    const device = await start({ limits: { outboxTokensMax: 64 } })
    const sampling = { ...GREEDY, logprobs: true, topLogprobs: 20 }
    const lease = await device.reserve('stuck', 40)
    const stuck = device.decode('stuck', lease, promptOf(20), { maxTokens: 2_000, sampling })
    await stuck.next()
    const other = await device.reserve('reads', 40)
    const story = await readDecode(device.decode('reads', other, promptOf(20, 3), { maxTokens: 900 }))
    expect(story.tokens).toEqual(expectedTokens(promptOf(20, 3), 900))
    await device.empty()
    expect(await failureOf(readDecode(stuck))).toBeInstanceOf(OverloadedError)
  })
})

describe('a drain', () => {
  it('refuses new work, lets running work end, and reports itself', async () => {
    const device = await start({})
    const lease = await device.reserve('runs', 40)
    const stream = device.decode('runs', lease, promptOf(20), { maxTokens: 300 })
    await stream.next()
    const drained = device.serving.drain(5_000)
    expect(device.serving.loadReport(1n).draining).toBe(true)
    expect(await failureOf(device.reserve('late', 10))).toBeInstanceOf(UnavailableError)
    expect((await readDecode(stream)).tokens).toEqual(expectedTokens(promptOf(20), 300))
    await drained
    await device.empty()
  })

  it('ends what still runs at its deadline', async () => {
    const gate = new StepGate()
    const device = await start({ fake: { beforeLayer: gate.beforeLayer } })
    gate.armed = true
    const reading = failureOf(readPrefill(device.prefill('long', promptOf(600))))
    await gate.reached.promise
    const drained = device.serving.drain(600)
    expect(await reading).toMatchObject({ code: 'unavailable', ids: { reason: 'draining' } })
    gate.release()
    await drained
  })
})

describe('KV events', () => {
  it('add up to the snapshot, and to nothing once all is given up', async () => {
    const changes: KvChange[] = []
    const device = await start({ onKvChange: (change) => changes.push(change) })
    const lease = await device.reserve('events', 200)
    const stream = device.decode('events', lease, promptOf(50), { maxTokens: 100 })
    for await (const { event } of stream) {
      if (event?.$case === 'tokens' && (event.value.tokens.at(-1)?.index ?? 0) > 20) break
    }
    const snapshots: { sequence: bigint; hashes: Uint8Array[] }[] = []
    for await (const part of callServerStream(device.kv, 'snapshot', {})) snapshots.push(part)
    const [snapshot] = snapshots
    const held = new Set<string>()
    const seen: Set<string>[] = [new Set()]
    changes.forEach(({ sequence, stored, removed }, index) => {
      expect(sequence).toBe(BigInt(index + 1))
      for (const hash of stored) held.add(hash)
      for (const hash of removed) held.delete(hash)
      seen.push(new Set(held))
    })
    const told = new Set(snapshot?.hashes.map((hash) => Buffer.from(hash).toString('hex')))
    expect(told).toEqual(seen[Number(snapshot?.sequence)])
    expect(Math.max(...seen.map(({ size }) => size))).toBeGreaterThanOrEqual(3)
    await device.empty()
    const { holder, index } = device.serving.device
    expect(index.snapshot().parts.flatMap(({ hashes }) => hashes).length).toBeGreaterThanOrEqual(3)
    expect(holder.evict(true)).toBeGreaterThanOrEqual(3)
    expect(index.snapshot().parts.flatMap(({ hashes }) => hashes)).toEqual([])
  })
})

describe('a refusal', () => {
  it('does not hide what it made room for: a prompt that waited is computed', async () => {
    const device = await start({ blocks: 10, limits: { waitingMax: 1 } })
    await device.reserve('first', 160)
    const waits = device.prefill('waits', promptOf(40))
    await expect.poll(() => onlyModel(device.serving).load().sequences).toBe(1)
    // The newer placement ends the older one's lease, and is then refused itself.
    const refused = readPrefill(device.prefill('first', promptOf(40), { epoch: 2 }))
    expect(await failureOf(refused)).toMatchObject({ code: 'overloaded', ids: { reason: 'queue-full' } })
    const events = []
    for await (const { event } of waits) {
      events.push(event?.$case)
      if (event?.$case === 'finished') break
    }
    expect(events).toEqual(['admitted', 'finished'])
    await device.empty()
  })
})

describe('an answer', () => {
  it('is the one to its question, also where others get memory with it', async () => {
    const device = await start({ blocks: 10 })
    const first = await device.reserve('first', 160)
    const abort = new AbortController()
    const { signal } = abort
    const waits = readPrefill(device.prefill('waits', promptOf(40), { signal })).catch(() => {})
    await expect.poll(() => onlyModel(device.serving).load().sequences).toBe(1)
    const smaller = await device.reserve('first', 60, 2)
    expect(smaller.counter).toBeGreaterThan(first.counter)
    const more = readPrefill(device.prefill('more', promptOf(100), { signal })).catch(() => {})
    await expect.poll(() => onlyModel(device.serving).load().sequences).toBe(2)
    expect(await callUnary(device.kv, 'release', { lease: smaller })).toEqual({ wasAlive: true })
    abort.abort()
    await Promise.all([waits, more])
    await device.empty()
  })
})

describe('a broken device', () => {
  it('fails its sequences, and says that it is broken after a few steps', async () => {
    let broken: KvasirError | undefined
    const beforeLayer = async (_layer: number, rows: number) => {
      if (rows === 77) throw new Error('the card fell off the bus')
    }
    const device = await start({
      fake: { beforeLayer },
      onBroken(error) {
        broken = error
      },
    })
    for (let attempt = 1; attempt <= 3; attempt += 1) {
      expect(broken).toBeUndefined()
      const failure = await failureOf(readPrefill(device.prefill(`broken-${attempt}`, promptOf(77))))
      expect(failure).toMatchObject({ code: 'internal', message: expect.stringContaining('fell off') })
    }
    expect(broken?.message).toContain('fell off')
    await device.empty()
  })

  it('is told when it does not end a step', async () => {
    const told = deferred<KvasirError>()
    const release = deferred<void>()
    const beforeLayer = async (_layer: number, rows: number) => {
      if (rows === 77) await release.promise
    }
    const device = await start({ fake: { beforeLayer }, limits: { stepMs: 50 }, onBroken: told.resolve })
    const prefill = readPrefill(device.prefill('hangs', promptOf(77))).catch(() => {})
    expect((await told.promise).message).toContain('did not end a step within 0.05 s')
    release.resolve()
    await device.stop()
    await prefill
  })

  it('is told at once when it is lost while nothing runs', async () => {
    const lost = deferred<KvasirError>()
    const told = deferred<KvasirError>()
    await start({ fake: { lost: lost.promise }, onBroken: told.resolve })
    lost.resolve(new InternalError('The thread is gone.'))
    expect(await told.promise).toMatchObject({ message: 'The thread is gone.' })
  })
})

describe('what is refused', () => {
  it('names the field at fault', async () => {
    const device = await start({ fake: { contextTokensMax: 60 } })
    const sequence = device.identity('bad')
    const good = { sequence, transferId: 't', tokens: [1, 2], firstIndex: 0, sampling: GREEDY }
    const prefill = (change: object) =>
      failureOf(readPrefill(callServerStream(device.inference, 'prefill', { ...good, ...change })))
    const cases: [object, string, string][] = [
      [{ sequence: undefined }, 'invalid_input', 'PrefillRequest.sequence is missing'],
      [{ sequence: { ...sequence, requestId: '' } }, 'invalid_input', 'request_id is missing'],
      [{ sequence: { ...sequence, epoch: 0 } }, 'invalid_input', 'epoch'],
      [{ sequence: { ...sequence, modelDigest: 'ff' } }, 'not_found', 'no model with digest'],
      [
        { sequence: { ...sequence, profile: 'PROFILE_PAPER' } },
        'unsupported',
        'in profile exact only; choose one that advertises it in paper',
      ],
      [{ transferId: '' }, 'invalid_input', 'transfer_id is missing'],
      [{ tokens: [] }, 'invalid_input', 'tokens is empty'],
      [{ tokens: promptOf(60) }, 'invalid_input', 'context holds 60'],
      [{ tokens: [1, FAKE_VOCABULARY] }, 'invalid_input', 'vocabulary'],
      [{ sampling: undefined }, 'invalid_input', 'sampling is missing'],
      [{ sampling: { ...GREEDY, topP: 0 } }, 'invalid_input', 'top_p'],
      [{ sampling: { ...GREEDY, topLogprobs: 21 } }, 'invalid_input', 'top_logprobs'],
    ]
    for (const [change, code, words] of cases) {
      const failure = await prefill(change)
      expect(failure.message).toContain(words)
      expect(failure.code).toBe(code)
    }
    const lease = await device.reserve('bad', 20)
    const decode = (change: object) =>
      failureOf(
        readDecode(
          callServerStream(device.inference, 'decode', {
            sequence,
            lease,
            tokens: [1, 2],
            firstIndex: 0,
            maxTokens: 4,
            sampling: GREEDY,
            source: undefined,
            ...change,
          }),
        ),
      )
    expect((await decode({ lease: undefined })).message).toContain('DecodeRequest.lease is missing')
    expect((await decode({ maxTokens: 0 })).message).toContain('max_tokens')
    expect((await decode({ lease: { ...lease, counter: 9n } })).code).toBe('lease_expired')
    expect((await decode({ lease: { ...lease, deviceId: 'gpu-0' } })).code).toBe('lease_expired')
    expect((await decode({ sequence: device.identity('other') })).message).toContain('another request')
    await callUnary(device.kv, 'release', { lease })
    await device.empty()
  })

  it('is everything that the capabilities do not name', async () => {
    const decoder = await start({ capabilities: ['CAPABILITY_DECODE'] })
    expect((await failureOf(readPrefill(decoder.prefill('no', [1, 2])))).message).toContain(
      'does not prefill',
    )
    const prefiller = await start({ deviceId: 'gpu-0', capabilities: ['CAPABILITY_PREFILL'] })
    expect(await failureOf(prefiller.reserve('no', 10))).toMatchObject({ code: 'unsupported' })
  })
})
