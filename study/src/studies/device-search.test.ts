import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { DeviceCounts } from './device-mix.js'
import { type Candidate, candidatesOf, DeviceSearch } from './device-search.js'

const priced = ({ gpu = 0, fpga = 0 }: DeviceCounts) => 17 * gpu + 8 * fpga

function searched(candidates: readonly Candidate[], meets: (one: Candidate) => boolean) {
  const search = new DeviceSearch(candidates)
  let tried = 0
  for (let chosen = search.next(2); chosen.length > 0; chosen = search.next(2)) {
    for (const one of chosen) {
      tried += 1
      search.tried(one, meets(one))
    }
  }
  return { best: search.best, tried }
}

test('where more devices do no worse, the cheapest cluster that does is found, with far fewer tries than there are clusters', () => {
  const candidates = candidatesOf(['gpu', 'fpga'], 12, priced)
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 120 }),
      (ofGpu, ofFpga, wanted) => {
        const meets = ({ counts: { gpu = 0, fpga = 0 } }: Candidate) => ofGpu * gpu + ofFpga * fpga >= wanted
        const { best, tried } = searched(candidates, meets)
        const cheapest = candidates.find(meets)
        expect([best?.dollars, best?.devices]).toEqual([cheapest?.dollars, cheapest?.devices])
        expect(tried).toBeLessThan(candidates.length / 3)
      },
    ),
  )
})

test('devices that make a cluster worse are left out, though more devices were ruled out with them', () => {
  const candidates = candidatesOf(['gpu', 'fpga'], 8, priced)
  const { best } = searched(candidates, ({ counts: { gpu = 0, fpga = 0 } }) => gpu - fpga / 2 >= 5)
  expect(best?.counts).toEqual({ gpu: 5, fpga: 0 })
})

test('where nothing does, nothing is found', () => {
  const { best } = searched(candidatesOf(['gpu'], 4, priced), () => false)
  expect(best).toBeUndefined()
})
