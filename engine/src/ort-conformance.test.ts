import { describe } from 'vitest'
import { kernelSuite } from './conformance/kernel-suite.js'
import { EXACT, numericsName, PAPER_FLOAT, PAPER_QUANTISED } from './numerics.js'
import { createOrtDriver } from './ort-driver.js'
import { testConformance, testSuite } from './testing/register-conformance.js'

for (const numerics of [EXACT, PAPER_FLOAT, PAPER_QUANTISED]) {
  testConformance(`ONNX Runtime, 3 query heads a KV head, ${numericsName(numerics)},`, {
    create: () => createOrtDriver({ threads: 1 }),
    model: 'dummy:llama-tiny',
    numerics,
  })
}

describe('ONNX Runtime with two threads', () => {
  testSuite(kernelSuite, { create: () => createOrtDriver({ threads: 2 }), model: 'skald' })
})
