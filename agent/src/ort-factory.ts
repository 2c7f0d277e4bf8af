/**
 * Devices that ONNX Runtime computes for, in a thread of this process. It is loaded where it is used: the
 * agent of a device whose driver is a process of its own loads none of it.
 */
import type { DriverFactory } from './definition.js'

export const ortFactory: DriverFactory = {
  async create(options) {
    const { createOrtDriver } = await import('@kvasir/engine/ort-driver')
    return createOrtDriver(options)
  },
}
