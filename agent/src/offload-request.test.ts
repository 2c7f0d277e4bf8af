import { AttentionMethod, type DecodeRequest } from '@kvasir/proto/kvasir/inference/v1/inference'
import { AttendMode } from '@kvasir/proto/kvasir/memory/v1/memory'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { describe, expect, it } from 'vitest'
import { checkAttentionRequest } from './offload-request.js'
import { GREEDY, promptOf } from './testing/test-devices.js'

const lease = { deviceId: 'fpga-0', incarnation: 1n, counter: 2n, ttlMs: 0 }
const offload = { deviceId: 'fpga-0', endpoint: 'there:1', lease, mode: AttendMode.PARTIAL }
const half = { method: AttentionMethod.PAGE_BOUNDS, budgetTokens: 0, budgetShare: 0.5 }
const request: DecodeRequest = {
  sequence: undefined,
  lease: undefined,
  tokens: promptOf(100),
  firstIndex: 0,
  maxTokens: 10,
  sampling: GREEDY,
  source: undefined,
}
const check = (changes: Partial<DecodeRequest>) => checkAttentionRequest({ ...request, ...changes }, 'gpu-0')

describe('a request for attention on another device', () => {
  it('names it, what it answers with, and the full pages of the prompt', () => {
    expect(check({})).toEqual({ budget: undefined, seed: 0n, offload: undefined })
    expect(check({ offload })).toMatchObject({ offload: { deviceId: 'fpga-0', pages: 6 } })
    const indices = { ...offload, mode: AttendMode.INDICES }
    expect(check({ offload: indices, attention: half })).toMatchObject({
      budget: { method: 'page-bounds', budget: { share: 0.5 } },
      offload: { mode: AttendMode.INDICES },
    })
  })

  it.each<[string, Partial<DecodeRequest>, string]>([
    ['to this device itself', { offload: { ...offload, deviceId: 'gpu-0' } }, 'this device itself'],
    ['to nobody', { offload: { ...offload, deviceId: '' } }, 'device_id is missing'],
    ['without an endpoint', { offload: { ...offload, endpoint: '' } }, 'endpoint is missing'],
    ['without a lease', { offload: { ...offload, lease: undefined } }, 'lease is missing'],
    ['without a mode', { offload: { ...offload, mode: AttendMode.UNSPECIFIED } }, 'mode must be'],
    ['of less than a page', { tokens: promptOf(15) }, 'no page to offload'],
    ['of random pages', { attention: { ...half, method: AttentionMethod.RANDOM } }, 'random pages'],
  ])('%s is refused with what to do', (_what, changes, words) => {
    const refused = () => check({ offload, ...changes })
    expect(refused).toThrow(InvalidInputError)
    expect(refused).toThrow(words)
  })
})
