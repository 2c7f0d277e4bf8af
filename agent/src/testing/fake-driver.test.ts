import { testBm25Conformance } from '@kvasir/engine/testing/bm25-conformance'
import { testKernelConformance } from '@kvasir/engine/testing/kernel-conformance'
import { testDriverConformance } from './driver-conformance.js'
import { FAKE_MODEL, FakeDriver } from './fake-driver.js'

testDriverConformance('The fake driver', { create: () => new FakeDriver(), model: FAKE_MODEL })

testKernelConformance('The fake driver', { create: () => new FakeDriver(), model: FAKE_MODEL })
testBm25Conformance('The fake driver', async () => new FakeDriver())
