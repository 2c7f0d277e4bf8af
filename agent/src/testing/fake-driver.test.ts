import { testDriverConformance } from './driver-conformance.js'
import { FAKE_MODEL, FakeDriver } from './fake-driver.js'

testDriverConformance('The fake driver', { create: () => new FakeDriver(), model: FAKE_MODEL })
