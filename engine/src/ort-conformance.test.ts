import { describe } from 'vitest'
import { kernelSuite } from './conformance/kernel-suite.js'
import { createOrtDriver } from './ort-driver.js'
import { testConformance, testSuite } from './testing/register-conformance.js'

testConformance('ONNX Runtime, 3 query heads a KV head', {
  create: () => createOrtDriver({ threads: 1 }),
  model: 'dummy:llama-tiny',
})

describe('ONNX Runtime with two threads', () => {
  testSuite(kernelSuite, { create: () => createOrtDriver({ threads: 2 }), model: 'skald' })
})
