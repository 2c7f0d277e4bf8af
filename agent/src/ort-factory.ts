/** Devices that ONNX Runtime computes for. */
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { resolveModel } from '@kvasir/engine/model-files'
import { createOrtDriver } from '@kvasir/engine/ort-driver'
import type { DriverFactory } from './definition.js'

export const ortFactory: DriverFactory = {
  create: (options) => createOrtDriver(options),
  async blockBytes(model) {
    const { layers, kvHeads, headDim } = (await resolveModel(model)).config
    // [K|V][kv head][token][head dim], f32
    return layers * 2 * kvHeads * BLOCK_TOKENS * headDim * Float32Array.BYTES_PER_ELEMENT
  },
}
