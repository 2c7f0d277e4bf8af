/** An agent that joins without the weights gets them from another, through a kill, and then serves the same text. */
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fpga, gpu, skald, TestCluster, until } from './support/cluster.js'
import { localText, untilLoaded } from './support/models.js'
import { storyPrompt, streamCompletion } from './support/streams.js'

const folder = mkdtempSync(join(tmpdir(), 'kvasir-raven-'))
/** A model that no machine has by its name. */
const raven = join(folder, 'raven')
const cache = join(folder, 'cache')
/** Three messages a second, so that a fetch can be interrupted. */
const slowLink = ['--link-bytes-per-second', String(3 << 20)]
let cluster: TestCluster

beforeAll(async () => {
  for (const file of readdirSync(skald, { withFileTypes: true })) {
    if (file.isFile()) cpSync(join(skald, file.name), join(raven, file.name))
  }
  cluster = await TestCluster.start({
    model: raven,
    agents: [gpu('gpu-0', slowLink)],
    spare: [{ ...fpga('fpga-0', ['--model-cache-dir', cache]), model: 'raven' }],
  })
})
afterAll(async () => {
  await cluster?.stop()
  rmSync(folder, { recursive: true, force: true })
})

/** Bytes of the weights that have come. */
function arrived(): number {
  const [digest] = existsSync(cache) ? readdirSync(cache) : []
  const path = join(cache, digest ?? '', 'raven', 'model.safetensors')
  return [path, `${path}.part`].reduce(
    (most, file) => Math.max(most, existsSync(file) ? statSync(file).size : 0),
    0,
  )
}

test('weights and tokenizer come from a peer, go on after a kill, and serve the same text', async () => {
  await cluster.startAgent('fpga-0')
  await until('some of the weights have come', async () => arrived() >= 2 << 20)
  await cluster.kill('fpga-0')
  const kept = arrived()
  expect(kept).toBeLessThan(statSync(join(skald, 'model.safetensors')).size)
  let least = Number.POSITIVE_INFINITY
  await cluster.startAgent('fpga-0')
  await until('the model is loaded', async () => {
    least = Math.min(least, arrived())
    return cluster.log('fpga-0').includes('model is served')
  })
  expect(least).toBeGreaterThanOrEqual(kept)
  await untilLoaded(cluster, 'raven', ['fpga-0', 'gpu-0'])
  const { text, requestId } = await streamCompletion(cluster, { model: 'raven', maxTokens: 40 })
  expect(text).toBe(await localText('skald', storyPrompt, 40))
  const report = await cluster.request(requestId)
  expect(report.placements.at(-1)).toMatchObject({ decodeDevice: 'fpga-0' })

  // Without anybody to ask: what was fetched is there.
  await Promise.all([cluster.kill('fpga-0'), cluster.kill('gpu-0')])
  await cluster.startAgent('fpga-0')
  await untilLoaded(cluster, 'raven', ['fpga-0'])
  expect((await streamCompletion(cluster, { model: 'raven', maxTokens: 40 })).text).toBe(text)
}, 60_000)
