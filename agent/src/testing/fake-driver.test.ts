import { testConformance } from '@kvasir/engine/testing/register-conformance'
import { FAKE_MODEL, FakeDriver } from './fake-driver.js'

testConformance('The fake driver', { create: () => new FakeDriver(), model: FAKE_MODEL })
