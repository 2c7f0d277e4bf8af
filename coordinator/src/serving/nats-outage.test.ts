/**
 * A nats-server that dies in mid-stream, and comes back with nothing in its store.
 */
import { delay } from '@kvasir/runtime/deferred'
import { startNatsServer } from '@kvasir/runtime/testing/nats-server'
import { expect, test } from 'vitest'
import { fakeTokens } from './testing/fake-device.js'
import {
  gather,
  startDefaultDevices,
  startTestCluster,
  testRequest,
  until,
  untilIdle,
} from './testing/test-cluster.js'

const prompt = [1, 2, 3, 4, 5]

test('NATS killed and started again with an empty store disturbs nobody', async () => {
  const nats = await startNatsServer()
  const cluster = await startTestCluster(nats)
  const { gpu, fpgas } = await startDefaultDevices(cluster)
  for (const fpga of fpgas) fpga.stepMs = 10
  const long = testRequest({ maxTokens: 300 })
  const streaming = gather(cluster.serving.submit(long))
  await nats.kill()
  await until('the coordinator knows', () => !cluster.serving.cluster().busConnected)
  await delay(1_800)
  const during = testRequest({ maxTokens: 5 })
  expect((await gather(cluster.serving.submit(during))).ids).toEqual(fakeTokens(prompt, 5))
  await nats.start({ wipe: true })
  await until('the coordinator is back', () => cluster.serving.cluster().busConnected)
  expect((await streaming).ids).toEqual(fakeTokens(prompt, 300))
  expect(cluster.serving.request(long.requestId)?.placements).toHaveLength(1)
  expect(cluster.serving.request(during.requestId)?.placements).toHaveLength(1)
  const states = cluster.serving.cluster().devices.map(({ state }) => state)
  expect(states).toEqual(['ready', 'ready', 'ready'])
  await untilIdle(gpu, ...fpgas)
  await cluster.close()
  await nats.close()
})
