import { describe, expect, test } from 'vitest'
import { hashCount, hashRange } from './block-hashes.js'
import { ClusterView } from './cluster-view.js'
import { CostModel } from './cost-model.js'
import { KvDirectory } from './kv-directory.js'
import { PrefixChoice } from './prefix-choice.js'
import { TEST_MODEL_DIGEST, TEST_VARIANT, testDevice, testLoad } from './testing/devices.js'
import { hashesOf } from './testing/named-hashes.js'

const blockHashes = hashesOf(Array.from({ length: 64 }, (_, index) => `hash-${index}`))
const facts = testDevice({ deviceId: 'gpu-0' })
const model = facts.models[0] ?? expect.fail('The device has a model.')

/** A prompt whose blocks are all on host-0, for gpu-0 with so many tokens of other prompts before it; the first `heldBlocks` not there but on gpu-0. */
function planWith(tokensAhead: number, linkBytesPerSecond = 1e9, heldBlocks = 0) {
  const view = new ClusterView()
  const host = testDevice({ deviceId: 'host-0', capabilities: ['kv-tier'], linkBytesPerSecond })
  for (const device of [facts, host]) {
    view.advertise(device, 0)
    view.report(testLoad(device, 1), 0)
  }
  const onGpu = view.device('gpu-0')?.models[0] ?? expect.fail('The model is there.')
  onGpu.take({ slots: 0, kvBytes: 0, prefillTokens: tokensAhead })
  const directory = new KvDirectory()
  directory.store('host-0', { variant: TEST_VARIANT, hashes: hashRange(blockHashes, heldBlocks) }, 'hbm')
  directory.store('gpu-0', { variant: TEST_VARIANT, hashes: hashRange(blockHashes, 0, heldBlocks) }, 'hbm')
  directory.label('gpu-0', view.device('gpu-0')?.row ?? 0)
  const costs = new CostModel()
  const prompt = {
    modelDigest: TEST_MODEL_DIGEST,
    blockHashes,
    prefillTokens: hashCount(blockHashes) * 16,
    avoided: new Set<string>(),
  }
  const plan = new PrefixChoice(prompt, 'exact', view, costs, directory, 0).plan(onGpu)
  return { plan, costs }
}

describe('the plan for a prompt that another device holds', () => {
  test('fetches all but what must be computed, and tells the time of that from the wait for others', () => {
    const { plan, costs } = planWith(4_000)
    expect(plan).toMatchObject({ localTokens: 0, computeTokens: 16, fetch: { tokens: 1_008 } })
    expect(plan.computeMs).toBe(costs.prefillMs(facts, model, 16, 1_008))
    // Others are ahead for far longer than either takes.
    expect(plan.prefillMs).toBeGreaterThan(10 * plan.computeMs)
    expect(plan.unfetchedMs).toBeGreaterThan(plan.prefillMs)
  })

  test('fetches what follows on its own blocks from a device that has only the end of the prompt', () => {
    const { plan } = planWith(0, 1e9, 40)
    expect(plan).toMatchObject({ localTokens: 640, computeTokens: 16, fetch: { tokens: 1_008 } })
    expect(plan.fetch?.device.deviceId).toBe('host-0')
  })

  test('computes all where the link is slow, and keeps what fetching would have come to', () => {
    const { plan } = planWith(0, 1e6)
    expect(plan).toMatchObject({ fetch: null, computeTokens: 1_024, unused: [{ why: 'slower' }] })
    expect(plan.prefillMs).toBe(plan.unfetchedMs)
    expect(plan.prefillMs).toBe(plan.computeMs)
    const [slower] = plan.unused
    expect(slower?.prefillMs).toBeCloseTo(
      plan.prefillMs - (slower?.computeMs ?? 0) + (slower?.fetchMs ?? 0),
      6,
    )
  })
})
