import { createOrtDriver } from '@kvasir/engine/ort-driver'
import { testDriverConformance } from './testing/driver-conformance.js'

testDriverConformance('The ONNX Runtime driver', {
  create: () => createOrtDriver({ threads: 1 }),
  model: 'dummy:llama-tiny',
})
