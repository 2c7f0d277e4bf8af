/**
 * The driver of an FPGA that is not there, as a process of its own: ONNX Runtime on the CPU in its place. An
 * agent talks to it as it would to the host program of a card (docs/drivers.md).
 */
import { runDriverProcess } from '@kvasir/engine/driver-process/run-driver-process'
import { createOrtDriver } from '@kvasir/engine/ort-driver'

runDriverProcess({ name: 'emulated-driver', create: (options) => createOrtDriver(options) })
