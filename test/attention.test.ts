/** A device decodes while another attends, over real processes: the same text, whatever happens to either. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { fpga, gpu, TestCluster, until, untilIdle } from './support/cluster.js'
import { type StreamOptions, streamCompletion } from './support/streams.js'

const maxTokens = 60
/** Every test runs a few generations whose layers wait for another process. */
const testMs = 90_000
const prompt = 'The wolf told the king that the fox had gone by the old road. '.repeat(30)
let cluster: TestCluster

beforeAll(async () => {
  cluster = await TestCluster.start({ agents: [gpu(), fpga('fpga-0'), fpga('fpga-1')] })
})
afterEach(() => untilIdle(cluster))
afterAll(() => cluster?.stop())

const run = (attention: object, options: Partial<StreamOptions> = {}) =>
  streamCompletion(cluster, { prompt, maxTokens, fields: { attention }, ...options })

/** The device that attends for a request, while it runs or after. */
async function attendant(requestId: string): Promise<string> {
  return (await cluster.request(requestId)).attention?.attendDevice ?? ''
}

async function decoder(requestId: string): Promise<string> {
  return (await cluster.request(requestId)).placements.at(-1)?.decodeDevice ?? ''
}

/** Runs with a fault of one device in mid-stream, which is whole again when this resolves. */
async function runWith(
  attention: object,
  deviceOf: (requestId: string) => Promise<string>,
  strike: (name: string) => Promise<void>,
) {
  let struck = ''
  const result = await run(attention, {
    onChunk: async (chunks, requestId) => {
      if (chunks !== 12) return
      struck = await deviceOf(requestId)
      await strike(struck)
    },
  })
  expect(struck).not.toBe('')
  await cluster.kill(struck)
  await cluster.startAgent(struck)
  await cluster.untilDevicesReady([struck])
  return result
}

describe.each(['partial', 'indices'])('with the place %s', (place) => {
  const half = { method: 'page-bounds', budget: '50%', place }

  test(
    'the text is that of one device, dense and at a budget',
    async () => {
      const alone = await run({ method: 'dense', place: 'local' })
      for (const attention of [
        { method: 'dense', place },
        { ...half, budget: '100%' },
      ]) {
        const offloaded = await run(attention)
        expect(offloaded.text).toBe(alone.text)
        expect(await attendant(offloaded.requestId)).toMatch(/^fpga-/)
        expect(await decoder(offloaded.requestId)).toBe('gpu-0')
      }
      expect((await run(half)).text).toBe((await run({ ...half, place: 'local' })).text)
    },
    testMs,
  )

  test.each([
    ['kill -9', (name: string) => cluster.kill(name)],
    ['SIGSTOP', async (name: string) => void cluster.processes.get(name)?.kill('SIGSTOP')],
  ])(
    '%s of the attending device in mid-stream: the text goes on as undisturbed',
    async (_how, strike) => {
      const undisturbed = await run(half)
      expect((await runWith(half, attendant, strike)).text).toBe(undisturbed.text)
    },
    testMs,
  )

  test(
    'kill -9 of the decoding device in mid-stream: the text goes on, and the other device is free',
    async () => {
      const undisturbed = await run(half)
      const result = await runWith(half, decoder, (name) => cluster.kill(name))
      expect(result.text).toBe(undisturbed.text)
    },
    testMs,
  )

  test(
    'a client that leaves in mid-stream frees both devices',
    async () => {
      const abort = new AbortController()
      const onChunk = (chunks: number) => {
        if (chunks === 10) abort.abort()
      }
      await run(half, { maxTokens: 1_000, signal: abort.signal, onChunk }).catch(() => undefined)
      await until('both are free', async () =>
        (await cluster.cluster()).devices.every((device) => device.leases === 0),
      )
    },
    testMs,
  )
})
