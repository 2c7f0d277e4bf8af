/**
 * Devices that ONNX Runtime computes for, in a thread of this process. It is loaded where it is used: the
 * agent of a device whose driver is a process of its own loads none of it.
 */
import { checkProvider } from '@kvasir/engine/execution-provider'
import type { DriverFactory } from './definition.js'

export const ortFactory: DriverFactory = {
  async create(options) {
    await checkProvider(options.provider ?? 'cpu')
    const { createOrtDriver } = await import('@kvasir/engine/ort-driver')
    return createOrtDriver(options)
  },
}
