import type { DeviceDriver } from '@kvasir/engine/device-driver'
import { Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import { expect, test } from 'vitest'
import { capabilitiesOf, checkAttentionAble } from './capabilities.js'
import { FakeDriver } from './testing/fake-driver.js'

const all = [Capability.DECODE, Capability.PREFILL, Capability.ATTEND, Capability.RETRIEVE]

function driverWith(...names: string[]): DeviceDriver {
  const driver = new FakeDriver()
  const kernels = names.map((name) => ({ name, version: 1, limits: {} }))
  driver.describe = () => ({ name: 'some', kernels, rowsMax: 256 })
  return driver
}

test('a device does what its kind does as far as its driver has the kernels, in the order of its kind', () => {
  expect(capabilitiesOf(all, new FakeDriver())).toEqual(all)
  expect(capabilitiesOf(all, driverWith('step'))).toEqual([Capability.DECODE, Capability.PREFILL])
  expect(capabilitiesOf(all, driverWith('step', 'choose-pages'))).toContain(Capability.ATTEND)
  expect(capabilitiesOf(all, driverWith('bm25-load', 'bm25-search'))).toEqual([])
  expect(capabilitiesOf(all, driverWith('bm25-load', 'bm25-search', 'bm25-unload'))).toEqual([
    Capability.RETRIEVE,
  ])
  expect(capabilitiesOf([Capability.KV_TIER], undefined)).toEqual([Capability.KV_TIER])
})

test('a driver without page-scores takes dense requests alone', () => {
  const budget = { method: 'page-bounds', budget: { tokens: 64 } } as const
  const dense = { budget: undefined, offload: undefined }
  expect(() => checkAttentionAble(driverWith('step'), dense)).not.toThrow()
  expect(() => checkAttentionAble(driverWith('step'), { ...dense, budget })).toThrow(/page-scores/)
  expect(() => checkAttentionAble(driverWith('step', 'page-scores'), { ...dense, budget })).not.toThrow()
})
