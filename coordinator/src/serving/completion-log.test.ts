import { expect, it } from 'vitest'
import type { CompletionRecord } from '../core/completion-record.js'
import type { DeviceFacts } from '../core/facts.js'
import { CompletionLog } from './completion-log.js'

const facts = (deviceId: string): DeviceFacts => ({
  deviceId,
  incarnation: '1',
  protocolVersion: 1,
  protocolVersionMin: 1,
  capabilities: ['prefill', 'decode'],
  models: [],
  decodeSlots: 1,
  tiers: [],
  compute: [],
  kernels: [],
  modelled: false,
  link: { bytesPerSecond: 1e9, latencyMs: 0 },
})

const record = (deviceId: string): CompletionRecord => ({
  modelDigest: 'm',
  profile: 'exact',
  prefill: { deviceId, tokens: 10, contextTokens: 0, computeMs: 5 },
})

const report = (requestId: string) => ({
  requestId,
  predicted: { ttftMs: 10, tpotMs: 2 },
  measured: { queueMs: 0, ttftMs: 12, tpotMs: 3 },
})

it('keeps the newest requests, and of the devices those that they ran on', () => {
  const log = new CompletionLog(3)
  for (let index = 0; index < 20; index += 1) {
    log.add(report(`r${index}`), record(index < 18 ? 'gpu-0' : 'gpu-1'), facts)
  }
  const { completions, devices } = log.history()
  expect(completions.map(({ requestId }) => requestId)).toEqual(['r17', 'r18', 'r19'])
  expect(devices.map(({ deviceId }) => deviceId)).toEqual(['gpu-0', 'gpu-1'])
  log.add(report('r20'), record('gpu-1'), facts)
  expect(log.history().devices.map(({ deviceId }) => deviceId)).toEqual(['gpu-1'])
})

it('keeps what was predicted and measured, and a device that left as it was', () => {
  const log = new CompletionLog(3)
  log.add(report('a'), record('gpu-0'), facts)
  log.add(report('b'), record('gpu-0'), () => undefined)
  const { completions, devices } = log.history()
  expect(completions[1]).toEqual({ ...report('b'), record: record('gpu-0') })
  expect(devices).toEqual([facts('gpu-0')])
})
