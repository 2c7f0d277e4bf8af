import { createOrtDriver } from './ort-driver.js'
import { testBm25Conformance } from './testing/bm25-conformance.js'
import { testKernelConformance } from './testing/kernel-conformance.js'

testKernelConformance('ONNX Runtime, 3 query heads a KV head', {
  create: () => createOrtDriver({ threads: 1 }),
  model: 'dummy:llama-tiny',
})
testKernelConformance('ONNX Runtime, two threads', {
  create: () => createOrtDriver({ threads: 2 }),
  model: 'skald',
})

// Needs no model: a device may search and do nothing else.
testBm25Conformance('ONNX Runtime', async () => createOrtDriver({ threads: 1 }))
