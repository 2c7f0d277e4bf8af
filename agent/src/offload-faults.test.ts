/** Offloaded attention when a device is slow, gone or asked for nonsense: who fails, how soon, and that all memory is free. */
import { writeTestModel } from '@kvasir/engine/testing/test-model'
import { AttentionMethod } from '@kvasir/proto/kvasir/inference/v1/inference'
import { AttendMode } from '@kvasir/proto/kvasir/memory/v1/memory'
import { type Deferred, deferred } from '@kvasir/runtime/deferred'
import { KvasirError, LeaseExpiredError, UnreachableError } from '@kvasir/runtime/errors'
import { callUnary } from '@kvasir/runtime/rpc-client'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { HashChain } from './hash-chain.js'
import { hashBytes } from './kv-index.js'
import { AttendingDevice } from './testing/attending-devices.js'
import { type RemoteSession, startRemoteSession } from './testing/remote-session.js'
import { onlyModel, promptOf, readDecode } from './testing/test-devices.js'

const ATTEND_MS = 1_000
/** A fault is noticed at the deadline of a query; the rest is what the machine may be busy with. */
const NOTICED_MS = ATTEND_MS + 1_500
const { PARTIAL, INDICES } = AttendMode

let model: string
let decoder: AttendingDevice
let attendant: AttendingDevice
/** While set, the attending device hangs in its kernels. */
let gate: Deferred<void> | undefined
/** Resolves at the next kernel. */
let asked: Deferred<void> = deferred()
const others: AttendingDevice[] = []

beforeAll(async () => {
  model = writeTestModel()
  decoder = await AttendingDevice.start('gpu-0', model, { limits: { attendMs: ATTEND_MS } })
  const beforeKernel = async () => {
    asked.resolve()
    await gate?.promise
  }
  attendant = await AttendingDevice.start('fpga-0', model, { beforeKernel })
})
afterEach(async () => {
  gate?.resolve()
  gate = undefined
  await Promise.all(others.splice(0).map((device) => device.stop()))
  await Promise.all([decoder.empty(), attendant.empty()])
})
afterAll(() => Promise.all([decoder.stop(), attendant.stop()]))

async function startOther(id: string): Promise<AttendingDevice> {
  const device = await AttendingDevice.start(id, model)
  others.push(device)
  return device
}

function hold(): void {
  gate = deferred()
  asked = deferred()
}

let requests = 0
const nextId = () => `request-${++requests}`

async function failureOf(work: Promise<unknown>): Promise<KvasirError> {
  const outcome = await work.then(
    () => undefined,
    (error: unknown) => error,
  )
  if (outcome instanceof KvasirError) return outcome
  throw new Error('It did not fail')
}

async function expectText(
  prompt: readonly number[],
  maxTokens: number,
  got: readonly number[],
): Promise<void> {
  const story = await readDecode(await decoder.generate(nextId(), prompt, { maxTokens }))
  expect(got).toEqual(story.tokens)
}

describe.each([PARTIAL, INDICES])('with the other device in %s', (mode) => {
  const attention = { method: AttentionMethod.PAGE_BOUNDS, budgetTokens: 0, budgetShare: 0.5 }

  async function begin(prompt: number[], signal?: AbortSignal, by = decoder, to = attendant) {
    const id = nextId()
    const offload = await to.offload(id, prompt, mode)
    const options = { maxTokens: 60, offload, attention, ...(signal === undefined ? {} : { signal }) }
    return readDecode(await by.generate(id, prompt, options))
  }

  it('a device that hangs in the middle of a query fails this sequence alone, in time', async () => {
    hold()
    const prompt = promptOf(64, 11)
    const failing = failureOf(begin(promptOf(150, 10)))
    await asked.promise
    const askedMs = performance.now()
    const other = readDecode(await decoder.generate(nextId(), prompt, { maxTokens: 50 }))
    const failure = await failing
    expect(performance.now() - askedMs).toBeLessThan(NOTICED_MS)
    expect(failure).toBeInstanceOf(UnreachableError)
    expect(failure.ids).toMatchObject({ deviceId: 'fpga-0' })
    await expectText(prompt, 50, (await other).tokens)
  })

  it('a device that dies fails the sequence and is named', async () => {
    const dying = await startOther('fpga-dies')
    const failing = failureOf(begin(promptOf(300, 12), undefined, decoder, dying))
    await untilAsked(dying)
    await dying.serving.close()
    const failure = await failing
    expect(failure).toBeInstanceOf(UnreachableError)
    expect(failure.ids).toMatchObject({ deviceId: 'fpga-dies' })
  })

  it('a decoding device that dies leaves nothing at the other', async () => {
    const dying = await startOther('gpu-dies')
    const failing = failureOf(begin(promptOf(300, 13), undefined, dying))
    await untilAsked(attendant)
    await dying.serving.close()
    await failing
    await attendant.empty()
  })

  it('a client that leaves frees both', async () => {
    hold()
    const abort = new AbortController()
    const failing = failureOf(begin(promptOf(150, 14), abort.signal))
    await asked.promise
    abort.abort()
    expect((await failing).code).toBe('cancelled')
    await Promise.all([decoder.empty(), attendant.empty()])
  })

  it('a lease of the other device that ends fails the sequence', async () => {
    hold()
    const id = nextId()
    const prompt = promptOf(150, 15)
    const offload = await attendant.offload(id, prompt, mode)
    const failing = failureOf(
      readDecode(await decoder.generate(id, prompt, { maxTokens: 20, offload, attention })),
    )
    await asked.promise
    await callUnary(attendant.kv, 'release', { lease: offload.lease })
    const failure = await failing
    expect(failure).toBeInstanceOf(UnreachableError)
    expect(failure.ids).toMatchObject({ deviceId: 'fpga-0' })
  })

  it('a lease that is none is refused before anything is computed', async () => {
    const id = nextId()
    const prompt = promptOf(80, 16)
    const offload = await attendant.offload(id, prompt, mode)
    await callUnary(attendant.kv, 'release', { lease: offload.lease })
    const failure = await failureOf(
      readDecode(await decoder.generate(id, prompt, { maxTokens: 20, offload })),
    )
    expect(failure.ids).toMatchObject({ deviceId: 'fpga-0', sourceCode: 'lease_expired' })
  })
})

const readBytes = (device: AttendingDevice) => onlyModel(device.serving).load().tiers[0]?.readBytes ?? 0

/** Until it has answered for a step. */
async function untilAsked(device: AttendingDevice, before = readBytes(device)): Promise<void> {
  const endMs = performance.now() + 10_000
  for (;;) {
    if (readBytes(device) > before) return
    if (performance.now() > endMs) throw new Error('Nothing was asked')
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

describe('the attending device', () => {
  const sessions: RemoteSession[] = []
  afterEach(() => Promise.all(sessions.splice(0).map((session) => session.close())))

  async function open(pages: number): Promise<RemoteSession> {
    const facts = attendant.model
    const session = await startRemoteSession({
      device: { deviceId: 'fpga-0', control: attendant.serving.control.address },
      model: facts,
      pages,
      mode: PARTIAL,
      read: ({ count, bounds }) =>
        new Uint8Array(count * (bounds ? facts.blockLayerBytes / 16 : facts.blockLayerBytes)),
    })
    sessions.push(session)
    return session
  }
  const query = (layer = 0) => {
    const { heads, headDim } = attendant.model
    return { layer, q: new Float32Array(heads * headDim).fill(1), pages: 2, rivals: new Float32Array() }
  }

  it('answers for pages that nobody computed', async () => {
    const { remote, ready } = await open(8)
    const { kvHeads, layers, blockLayerBytes } = attendant.model
    expect(ready.bytes).toBe(BigInt(8 * layers * blockLayerBytes * (1 + 1 / 16)))
    const answer = await remote.ask(query())
    // All keys are zero: of equal pages the earlier ones, and every token weighs the same.
    expect([...answer.chosen]).toEqual(new Array(kvHeads).fill(2))
    expect(answer.partial?.sum[0]).toBeCloseTo(32)
  })

  it('refuses a caller that asks on and on without waiting', async () => {
    hold()
    const { remote } = await open(4)
    const asks = Array.from({ length: 40 }, () => remote.ask(query()))
    const failures = await Promise.all(asks.map(failureOf))
    expect(failures[0]?.ids).toMatchObject({ deviceId: 'fpga-0', sourceCode: 'overloaded' })
  })

  it('refuses a query that is none, and says why', async () => {
    const { remote } = await open(4)
    const failure = await failureOf(remote.ask(query(7)))
    expect(failure.message).toContain('layer is 7')
  })

  it('keeps pages that came with K and V for the next sequence', async () => {
    const prompt = promptOf(200, 18)
    const hashes = new HashChain(attendant.model.digest, new Uint8Array(), prompt).prompt.map(hashBytes)
    const received = () => onlyModel(attendant.serving).load().tiers[0]?.inBlocks ?? 0
    const generate = async () => {
      const id = nextId()
      const offload = await attendant.offload(id, prompt, PARTIAL, hashes)
      return readDecode(await decoder.generate(id, prompt, { maxTokens: 20, offload }))
    }
    const before = received()
    const { tokens } = await generate()
    expect(received() - before).toBe(12)
    await attendant.empty()
    expect((await generate()).tokens).toEqual(tokens)
    expect(received() - before).toBe(12)
  })

  it('does not let a lease of another request be used', async () => {
    const id = nextId()
    const prompt = promptOf(80, 19)
    const offload = await attendant.offload(nextId(), prompt, PARTIAL)
    const failure = await failureOf(readDecode(await decoder.generate(id, prompt, { maxTokens: 4, offload })))
    expect(failure.ids).toMatchObject({ deviceId: 'fpga-0', sourceCode: 'invalid_input' })
    const released = callUnary(attendant.kv, 'release', { lease: offload.lease })
    await expect(released).resolves.toEqual({ wasAlive: true })
    await expect(
      callUnary(attendant.kv, 'extend', { lease: offload.lease, tokens: 100 }),
    ).rejects.toBeInstanceOf(LeaseExpiredError)
  })
})
