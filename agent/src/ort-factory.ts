/** Devices that ONNX Runtime computes for. */
import { createOrtDriver } from '@kvasir/engine/ort-driver'
import type { DriverFactory } from './definition.js'

export const ortFactory: DriverFactory = { create: (options) => createOrtDriver(options) }
