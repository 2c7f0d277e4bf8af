/**
 * The closed form of GLITCHES' comparison: tokens a second of saturated machines that do one thing at a time.
 *
 *     8 of a kind   8 m / (t_pre + m t_dec)
 *     mixed         x = min(7 / (m t_F), 1 / t_p) requests a second by way of the FPGAs,
 *                   y = (1 - x t_p) / (t_p + m t_G) more in what time the GPU has left: (x + y) m
 *
 * t_dec is that of a sequence half-way through its output, n + m/2 tokens. Analytical, and no simulation: it stands beside
 * the replay to check it.
 */
import { type DeviceModel, deviceTimes } from '@kvasir/catalogue/device-times'

export interface Workload {
  readonly inputTokens: number
  readonly outputTokens: number
}

const DEVICES = 8

function stageMs(model: DeviceModel, { inputTokens, outputTokens }: Workload) {
  const times = deviceTimes(model)
  return {
    prefillMs: times.stepMs({ prefills: [{ start: 0, count: inputTokens }], decodes: [] }),
    decodeMs: outputTokens * times.stepMs({ prefills: [], decodes: [inputTokens + outputTokens / 2] }),
  }
}

export function homogeneousTokensPerS(model: DeviceModel, workload: Workload): number {
  const { prefillMs, decodeMs } = stageMs(model, workload)
  return (DEVICES * workload.outputTokens * 1e3) / (prefillMs + decodeMs)
}

export function mixedTokensPerS(
  gpu: DeviceModel,
  fpga: DeviceModel,
  workload: Workload,
  decodeAssist: boolean,
): number {
  const onGpu = stageMs(gpu, workload)
  const onFpga = stageMs(fpga, workload)
  const viaFpgas = Math.min((DEVICES - 1) / onFpga.decodeMs, 1 / onGpu.prefillMs)
  const left = Math.max(0, 1 - viaFpgas * onGpu.prefillMs)
  const onGpuAlone = decodeAssist ? left / (onGpu.prefillMs + onGpu.decodeMs) : 0
  return (viaFpgas + onGpuAlone) * workload.outputTokens * 1e3
}

export function geometricMean(values: readonly number[]): number {
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length)
}
