import { createOrtDriver } from './ort-driver.js'
import { testKernelConformance } from './testing/kernel-conformance.js'

testKernelConformance('ONNX Runtime, 3 query heads a KV head', {
  create: () => createOrtDriver({ threads: 1 }),
  model: 'dummy:llama-tiny',
})
testKernelConformance('ONNX Runtime, two threads', {
  create: () => createOrtDriver({ threads: 2 }),
  model: 'skald',
})
