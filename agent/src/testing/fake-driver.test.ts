import { sparseSuite } from '@kvasir/engine/conformance/sparse-suite'
import { stepSuite } from '@kvasir/engine/conformance/step-suite'
import { PAPER_FLOAT } from '@kvasir/engine/numerics'
import { testConformance, testSuite } from '@kvasir/engine/testing/register-conformance'
import { describe } from 'vitest'
import { FAKE_MODEL, FakeDriver } from './fake-driver.js'

const under = { create: () => new FakeDriver(), model: FAKE_MODEL }

testConformance('The fake driver', under)

// Its keys and values are whole numbers, and only those survive 8 bits: the kernels' cases write others.
describe('The fake driver with 8 bits on the wire', () => {
  testSuite(stepSuite, { ...under, numerics: PAPER_FLOAT })
  testSuite(sparseSuite, { ...under, numerics: PAPER_FLOAT })
})
