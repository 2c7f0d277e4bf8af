import { expect, test } from 'vitest'
import { ClusterView } from './cluster-view.js'
import { CostModel } from './cost-model.js'
import { DeviceFilter } from './device-filter.js'
import { kvBytes, poolBytes } from './kv-blocks.js'
import { KvDirectory } from './kv-directory.js'
import { PrefixChoice } from './prefix-choice.js'
import { TEST_MODEL_DIGEST, TEST_VARIANT, testDevice, testLoad } from './testing/devices.js'
import { hashesOf } from './testing/named-hashes.js'

const PREFILL_TOKENS = 2_000

/** A device with all four blocks of a prompt of 2,000 tokens, and with room for `poolTokens`. */
function deviceWith(blockTokens: number | undefined, poolTokens: number) {
  const plain = testDevice({ deviceId: 'gpu-0', capabilities: ['prefill', 'decode', 'attend'] })
  const [first] = plain.models
  if (!first) expect.fail('The device has a model.')
  const capacityBytes = poolTokens * first.poolBytesPerToken
  const tiers = [{ name: 'hbm', capacityBytes, bytesPerSecond: 1e12 }]
  const model = { ...first, contextTokensMax: 8_192, tiers, ...(blockTokens && { blockTokens }) }
  const device = { ...plain, models: [model], tiers }
  const view = new ClusterView()
  view.advertise(device, 0)
  view.report({ ...testLoad(device, 1), tiers: [], models: [] }, 0)
  const directory = new KvDirectory()
  const blockHashes = hashesOf(['a', 'b', 'c', 'd'])
  directory.store('gpu-0', { variant: TEST_VARIANT, hashes: blockHashes }, 'hbm')
  const avoided = new Set<string>()
  const prompt = { modelDigest: TEST_MODEL_DIGEST, blockHashes, prefillTokens: PREFILL_TOKENS, avoided }
  const onDevice = view.device('gpu-0')?.models[0] ?? expect.fail('The model is there.')
  const choice = new PrefixChoice(prompt, 'exact', view, new CostModel(), directory, 0)
  const filter = new DeviceFilter(
    {
      modelDigest: TEST_MODEL_DIGEST,
      prefillTokens: PREFILL_TOKENS,
      reserveTokens: PREFILL_TOKENS + 10,
      attention: {
        wish: { method: 'dense', budget: null, place: 'partial' },
        settled: null,
        isSparseDefault: true,
        isPlaceBinding: false,
      },
      avoided,
    },
    'exact',
    view,
    { protocolVersion: 1, protocolVersionMin: 1 },
    0,
  )
  return { model, onDevice, choice, filter }
}

test('a model with larger blocks takes memory by them', () => {
  const { model } = deviceWith(512, 10_000)
  expect(kvBytes(model, 513)).toBe(1_024 * model.kvBytesPerToken)
  expect(poolBytes(model, 512)).toBe(512 * model.poolBytesPerToken)
})

test('what is cached of a prompt is told in tokens of the model’s blocks, and at least one token is computed', () => {
  const larger = deviceWith(512, 10_000)
  expect(larger.choice.heldTokens(larger.onDevice)).toBe(2_048)
  expect(larger.choice.localTokens(larger.onDevice)).toBe(1_536)
  const plain = deviceWith(undefined, 10_000)
  expect(plain.choice.localTokens(plain.onDevice)).toBe(64)
})

test('a device is too small where its pool lacks the last block, however little of it is needed', () => {
  const left = (blockTokens: number | undefined, poolTokens: number) => {
    const { prefillFirst, attend } = deviceWith(blockTokens, poolTokens).filter.pass(true)
    return [prefillFirst.length, attend.length]
  }
  expect(left(undefined, 2_016)).toEqual([1, 1])
  // Attention’s pages are blocks of 16 tokens.
  expect(left(512, 2_048)).toEqual([1, 0])
  expect(left(512, 2_047)).toEqual([0, 0])
})
