import { systemClock } from '@kvasir/runtime/clock'
import { deferred } from '@kvasir/runtime/deferred'
import { createLogger } from '@kvasir/runtime/log'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { Demotion } from './demotion.js'
import { AGENT_LIMITS } from './limits.js'
import type { DemotingModel } from './served-model.js'

const A = 'a'.repeat(32)
const B = 'b'.repeat(32)

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

function demotion(stagingMs: number, bytesMax: number = AGENT_LIMITS.stagingBytesMin): Demotion {
  const served = {
    driver: { readBlocks: async (_layer: number, ids: Uint32Array) => new Uint8Array(8 * ids.length) },
    model: { layers: 2, blockLayerBytes: 8, digest: 'digest' },
  } as unknown as DemotingModel
  return new Demotion({
    ...{ deviceId: 'fpga-0', served, limits: { ...AGENT_LIMITS, stagingMs }, clock: systemClock },
    room: { bytesMax, bytesUsed: 0 },
    log: createLogger({ service: 'test', terminal: false }),
    kvEndpoint: () => 'here',
    hostTier: () => ({ deviceId: 'host-0', control: 'there' }),
    // Never answers: what is staged stays so.
    offer: () => deferred<readonly Uint8Array[]>().promise,
  })
}

it('drops what is not fetched after its own time, though it was staged and fetched before', () => {
  const demoted = demotion(100)
  const demote = (...hashes: string[]) =>
    demoted.demote(hashes.map((hash, block) => ({ hash, block, tier: 'hbm' })))
  demote(A, B)
  demoted.release([A])
  vi.advanceTimersByTime(80)
  demote(A)
  vi.advanceTimersByTime(40)
  expect([demoted.staging(A) === undefined, demoted.staging(B) === undefined]).toEqual([false, true])
  vi.advanceTimersByTime(60)
  expect(demoted.staging(A)).toBeUndefined()
  expect(demoted.droppedBlocks('hbm')).toBe(2)
})

it('keeps what left last where there is no room for all: the beginnings of sequences', () => {
  const demoted = demotion(100, 2 * 16)
  const hashes = [A, B, 'c'.repeat(32)]
  demoted.demote(hashes.map((hash, block) => ({ hash, block, tier: 'hbm' })))
  expect(hashes.map((hash) => demoted.staging(hash) !== undefined)).toEqual([false, true, true])
  expect(demoted.droppedBlocks('hbm')).toBe(1)
})
