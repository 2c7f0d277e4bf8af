/** Whatever a driver does wrong, its agent notices in time, every call settles, and nothing is thrown at anybody. */
import type { DeviceDriver, DriverModel, StepSequence } from '@kvasir/engine/device-driver'
import { EXACT } from '@kvasir/engine/numerics'
import { withDeadline } from '@kvasir/runtime/deferred'
import { KvasirError } from '@kvasir/runtime/errors'
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import {
  DONE,
  helloReply,
  loadedReply,
  SCRIPTED,
  type Script,
  type ScriptedCall,
  ScriptedDriver,
  stepDone,
} from '../testing/scripted-driver.js'
import { connectSocketDriver } from './socket-driver.js'

const opened: { close(): Promise<void> }[] = []
afterEach(async () => {
  for (const one of opened.splice(0).reverse()) await one.close()
})

async function connected(script: Script, connectMs = 2_000): Promise<DeviceDriver> {
  const scripted = await ScriptedDriver.start(script)
  opened.push(scripted)
  const driver = await connectSocketDriver({ socketPath: scripted.socketPath, agent: 'test', connectMs })
  opened.push(driver)
  return driver
}

async function loadedModel(script: Script): Promise<{ driver: DeviceDriver; model: DriverModel }> {
  const driver = await connected(script)
  return { driver, model: await driver.loadModel({ model: 'any', numerics: EXACT, kvBlocksMax: 4 }) }
}

const row: StepSequence = {
  blocks: Uint32Array.of(0),
  start: 0,
  tokens: Uint32Array.of(1),
  wantLogits: true,
}

async function failureOf(call: Promise<unknown>): Promise<KvasirError> {
  const outcome = await withDeadline(
    call.then(
      () => undefined,
      (error: unknown) => error,
    ),
    5_000,
    'waiting for the failure',
  )
  if (outcome instanceof KvasirError) return outcome
  throw new Error(`it did not fail: ${outcome}`)
}

/** The device is lost with this reason, and so is every call, pending and later. */
async function expectLost(driver: DeviceDriver, model: DriverModel, call: Promise<unknown>, reason: RegExp) {
  const error = await failureOf(call)
  expect(error.message).toMatch(reason)
  expect(error.code).toBe('unreachable')
  expect(await withDeadline(driver.lost, 1_000, 'waiting for the loss')).toBe(error)
  expect(await failureOf(model.readBlocks(0, Uint32Array.of(0)))).toBe(error)
  expect(error.message).not.toMatch(/\n/)
}

const step = (act: (call: ScriptedCall) => void): Script => ({ step: act })

describe('garbage of a driver loses the device', () => {
  const cases: readonly [name: string, script: Script, reason: RegExp][] = [
    [
      'lengths that no frame has',
      step(({ socket }) => void socket.write(new Uint8Array(64).fill(255))),
      /A frame of 4294967295/,
    ],
    ['a message of no bytes', step(({ socket }) => void socket.write(new Uint8Array(8))), /A frame of 0/],
    [
      'bytes that are no message',
      step(({ socket }) => void socket.write(Uint8Array.of(3, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255))),
      /no DriverReply/,
    ],
    [
      'a reply of an unknown kind',
      step(({ socket }) => void socket.write(Uint8Array.of(3, 0, 0, 0, 0, 0, 0, 0, 160, 6, 1))),
      /unknown kind/,
    ],
    [
      'the end in the middle of a frame',
      step(({ socket }) => void socket.end(Uint8Array.of(9, 0, 0, 0, 9))),
      /closed the connection/,
    ],
    ['too few logits', step(({ reply }) => reply(stepDone()[0], stepDone()[1].slice(4))), /lacks 4/],
    ['too many logits', step(({ reply }) => reply(stepDone(2)[0], stepDone(2)[1])), /20 bytes too many/],
    ['a call that was not made', step(({ id, say }) => say(id + 100n, ...stepDone())), /not asked/],
    ['another kind of answer', step(({ reply }) => reply(DONE)), /answered with done where step was due/],
    [
      'a layer that nobody wants to hear of',
      step(({ reply }) => reply({ $case: 'layer', value: { layer: 0 } })),
      /layer 0/,
    ],
    [
      'a question that nobody can answer',
      step(({ reply }) =>
        reply({ $case: 'ask', value: { ask: 1n, sequence: 0, layer: 0, pages: 1 } }, new Uint8Array(8)),
      ),
      /nobody answers/,
    ],
    [
      'the attention of a sequence that is none',
      step(({ reply }) => {
        const use = {
          pages: 1n,
          pagesRead: 1n,
          prepareUs: 0,
          relevancyUs: 0,
          retrievalUs: 0,
          applyUs: 0,
          remoteUs: 0,
        }
        reply(
          {
            $case: 'step',
            value: {
              elapsedUs: 1,
              cancelled: false,
              failed: [],
              attention: [{ ...use, sequence: 7, wireBytes: 0n }],
            },
          },
          stepDone()[1],
        )
      }),
      /sequence 7/,
    ],
    [
      'the failure of a sequence that is none',
      step(({ reply }) =>
        reply(
          {
            $case: 'step',
            value: {
              elapsedUs: 1,
              cancelled: false,
              failed: [{ sequence: 3, failure: undefined }],
              attention: [],
            },
          },
          stepDone()[1],
        ),
      ),
      /sequence 3/,
    ],
  ]

  test.each(cases)('%s', async (_, script, reason) => {
    const { driver, model } = await loadedModel(script)
    await expectLost(driver, model, model.step([row]), reason)
  })

  test('a second answer to one call', async () => {
    const { driver, model } = await loadedModel(
      step(({ reply }) => {
        reply(...stepDone())
        reply(...stepDone())
      }),
    )
    expect((await model.step([row])).logits).toHaveLength(SCRIPTED.vocabulary)
    await expectLost(driver, model, model.stats(), /answered already/)
  })

  test('layers out of their order, and a step that ends before its last layer', async () => {
    const outOfOrder = await loadedModel(step(({ reply }) => reply({ $case: 'layer', value: { layer: 1 } })))
    const steps = outOfOrder.model.step([row], () => {})
    await expectLost(outOfOrder.driver, outOfOrder.model, steps, /layer 1 where layer 0/)
    const early = await loadedModel(
      step(({ reply }) => {
        reply({ $case: 'layer', value: { layer: 0 } })
        reply(...stepDone())
      }),
    )
    await expectLost(
      early.driver,
      early.model,
      early.model.step([row], () => {}),
      /after 1 of 2 layers/,
    )
  })

  test('blocks, pages and documents of wrong sizes', async () => {
    const { driver, model } = await loadedModel({
      readBlocks: ({ reply }) => reply(DONE, new Uint8Array(12)),
    })
    await expectLost(driver, model, model.readBlocks(0, Uint32Array.of(0, 1)), /12 bytes where 512/)
    const pages = await loadedModel({
      choosePages: ({ reply }) =>
        reply(
          { $case: 'chosen', value: { counts: [1], relevancyUs: 1, retrievalUs: 1, applyUs: 1 } },
          new Uint8Array(Uint32Array.of(9).buffer),
        ),
    })
    const input = {
      layer: 0,
      q: new Float32Array(2),
      blocks: Uint32Array.of(0),
      pages: 1,
      rivals: new Float32Array(0),
    }
    const chosen = pages.model.runKernel('choose-pages', { ...input, attend: false })
    await expectLost(pages.driver, pages.model, chosen, /a page that it was not given/)
    const found = await loadedModel({
      bm25Search: ({ reply }) =>
        reply({ $case: 'found', value: { count: 9, relevancyUs: 1, retrievalUs: 1 } }, new Uint8Array(108)),
    })
    const query = { key: 'a', terms: Uint32Array.of(1), weights: Float64Array.of(1), meanLength: 1, k: 3 }
    await expectLost(
      found.driver,
      found.model,
      found.driver.runKernel('bm25-search', query),
      /9 documents where 3/,
    )
  })

  test.each([
    ['no layer', { layers: 0 }],
    ['heads that do not divide', { kvHeads: 3, heads: 4 }],
    ['a digest that is none', { digest: 'x' }],
    ['blocks of another size', { blockLayerBytes: 1n }],
    [
      'other numerics',
      { numerics: { weights: 'WEIGHT_FORMAT_INT4', pool: 'KV_FORMAT_INT8', wire: 'KV_FORMAT_INT8' } },
    ],
    ['no numerics', { numerics: undefined }],
  ] as const)('a model with %s', async (_, changes) => {
    const driver = await connected({ load: ({ reply }) => reply(loadedReply(changes)) })
    const error = await failureOf(driver.loadModel({ model: 'any', numerics: EXACT, kvBlocksMax: 4 }))
    expect(error.code).toBe('unreachable')
    expect(await driver.lost).toBe(error)
  })

  test('any bytes at all', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 8, maxLength: 400 }), async (bytes) => {
        const { driver, model } = await loadedModel(step(({ socket }) => void socket.end(bytes)))
        const error = await failureOf(model.step([row]))
        expect(error.code).toBe('unreachable')
        expect(await driver.lost).toBe(error)
        for (const one of opened.splice(0).reverse()) await one.close()
      }),
      { numRuns: 40 },
    )
  })
})

describe('a driver that hangs is lost within what it named', () => {
  const timed = async (call: Promise<unknown>) => {
    const sinceMs = performance.now()
    const error = await failureOf(call)
    return { error, tookMs: performance.now() - sinceMs }
  }

  test('silent in a step, in a read, in a load', async () => {
    const silent = { step: () => {}, readBlocks: () => {}, load: () => {} }
    const { load: _, ...once } = silent
    const inStep = await loadedModel(once)
    const step = await timed(inStep.model.step([row]))
    expect(step.error.message).toMatch(/said nothing for 0.3 s while it had a step to do/)
    expect(step.tookMs).toBeLessThan(2_000)
    const inRead = await loadedModel(once)
    await expectLost(
      inRead.driver,
      inRead.model,
      inRead.model.readBlocks(0, Uint32Array.of(0)),
      /said nothing/,
    )
    const driver = await connected(silent)
    const load = await timed(driver.loadModel({ model: 'any', numerics: EXACT, kvBlocksMax: 4 }))
    expect(load.error.message).toMatch(/said nothing/)
  })

  test('alive, but without progress', async () => {
    let beating: NodeJS.Timeout | undefined
    const { driver, model } = await loadedModel(
      step(({ say, reply }) => {
        reply({ $case: 'layer', value: { layer: 0 } })
        beating = setInterval(() => say(0n, { $case: 'alive', value: {} }), 50)
      }),
    )
    await expectLost(
      driver,
      model,
      model.step([row], () => {}),
      /no progress with a step for 0.6 s/,
    )
    clearInterval(beating)
  })

  test('with nothing to do', async () => {
    const driver = await connected({ ping: () => {} })
    expect((await withDeadline(driver.lost, 8_000, 'waiting for the loss')).message).toMatch(/said nothing/)
  })

  test('one that says it is alive may take its time to load', async () => {
    const driver = await connected({
      load({ say, reply }) {
        let beats = 0
        const beating = setInterval(() => {
          beats += 1
          say(0n, { $case: 'alive', value: {} })
          if (beats < 10) return
          clearInterval(beating)
          reply(loadedReply({}))
        }, 100)
      },
    })
    const model = await driver.loadModel({ model: 'any', numerics: EXACT, kvBlocksMax: 4 })
    expect(model.facts.layers).toBe(SCRIPTED.layers)
  })
})

describe('what a driver refuses costs that call alone', () => {
  const failing = (code: string): Script => ({
    step: ({ reply }) => reply({ $case: 'failure', value: { code, message: 'It is full.', param: '' } }),
    readBlocks: ({ reply }) => reply(DONE, new Uint8Array(SCRIPTED.blockLayerBytes)),
  })

  test.each([
    ['overloaded', 'overloaded'],
    ['unsupported', 'unsupported'],
    // The agent checks what clients ask for: such a word is the device's fault, not theirs.
    ['invalid_input', 'internal'],
    ['not_found', 'internal'],
    ['no such code', 'internal'],
  ])('a step that fails as %s fails as %s, and the device goes on', async (said, code) => {
    const { model } = await loadedModel(failing(said))
    const error = await failureOf(model.step([row]))
    expect(error.code).toBe(code)
    expect(error.message).toMatch(/It is full\./)
    expect(await model.readBlocks(0, Uint32Array.of(0))).toHaveLength(SCRIPTED.blockLayerBytes)
  })

  test('a sequence with a logit that is no number fails alone', async () => {
    const { model } = await loadedModel({
      step({ reply }) {
        const logits = new Float32Array(2 * SCRIPTED.vocabulary).fill(1)
        logits[SCRIPTED.vocabulary + 2] = Number.NaN
        reply(stepDone()[0], new Uint8Array(logits.buffer))
      },
    })
    const mute = { ...row, wantLogits: false }
    const { failed } = await model.step([row, mute, row])
    expect(failed).toMatchObject([{ sequence: 2, error: { code: 'internal' } }])
  })

  test('a load for which it lacks memory', async () => {
    const driver = await connected({
      load: ({ reply }) =>
        reply({ $case: 'failure', value: { code: 'overloaded', message: 'It needs 4 GB more.', param: '' } }),
    })
    const error = await failureOf(driver.loadModel({ model: 'any', numerics: EXACT, kvBlocksMax: 4 }))
    expect([error.code, error.message]).toEqual(['overloaded', 'It needs 4 GB more.'])
  })

  test('kernels that it does not declare, and payloads that it does not take, are not sent', async () => {
    const { driver, model } = await loadedModel({})
    const missing = await failureOf(driver.runKernel('bm25-load', { key: 'a', shard: new Uint8Array(1) }))
    expect(missing.code).toBe('unsupported')
    const large = new Uint8Array((1 << 20) + 1)
    expect((await failureOf(model.writeBlocks(0, Uint32Array.of(0), large))).code).toBe('invalid_input')
  })
})

describe('a driver that is not there, or is none', () => {
  test('nobody listens: one sentence that names the setting', async () => {
    const wish = { socketPath: '/no/such/driver.sock', agent: 'test', connectMs: 300 }
    const error = await failureOf(connectSocketDriver(wish))
    expect(error).toMatchObject({ code: 'unavailable', param: 'driver' })
    expect(error.message).toMatch(
      /No driver answers on \/no\/such\/driver.sock .* start it, or correct the setting driver\./,
    )
  })

  test.each([
    ['another version', { protocolVersion: 2 }, /speaks version 2/],
    ['a time that none may name', { silenceMsMax: 7 }, /silence_ms_max 7/],
  ] as const)('%s', async (_, changes, reason) => {
    const call = connected({ hello: ({ reply }) => reply(helloReply(changes)) })
    expect((await failureOf(call)).message).toMatch(reason)
  })

  test('something else listens', async () => {
    const call = connected({ hello: ({ socket }) => void socket.write('HTTP/1.1 400 Bad Request\r\n\r\n') })
    expect((await failureOf(call)).message).toMatch(/is no driver/)
  })

  test('it serves another agent for a while', async () => {
    let tries = 0
    const driver = await connected({
      hello({ reply }) {
        tries += 1
        const busy = { code: 'unavailable', message: 'The device serves another agent.', param: '' }
        reply(tries < 3 ? { $case: 'failure', value: busy } : helloReply({}))
      },
    })
    expect([tries, driver.describe().name]).toEqual([3, 'scripted'])
  })

  test('after close every call says so, and nothing is lost', async () => {
    const { driver, model } = await loadedModel({ step: () => {} })
    const pending = failureOf(model.step([row]))
    await driver.close()
    expect((await pending).code).toBe('cancelled')
    expect((await failureOf(model.stats())).code).toBe('cancelled')
  })
})
