/** Words for modelled times: whoever reads a time must know that it is not this machine's. */
import type { DeviceReport, RequestReport } from '@kvasir/coordinator/generation'
import { formatDuration, formatShare } from './format.js'
import { color } from './terminal.js'

/** `3 of 1200 (0.3 %), by 12 ms in all`; more than a few are coloured. */
export function lateText(
  pace: Pick<NonNullable<DeviceReport['pace']>, 'steps' | 'lateSteps' | 'lateMs'>,
): string {
  const { steps, lateSteps, lateMs } = pace
  if (lateSteps === 0) return `0 of ${steps}`
  const text = `${lateSteps} of ${steps} (${formatShare(lateSteps / steps)}), by ${formatDuration(lateMs)} in all`
  return lateSteps > steps * LATE_SHARE ? color.yellow(text) : text
}

const LATE_SHARE = 0.05

/** `modelled times: gpu-0 as v100s, fpga-0 as u280, with llama-2-7b (glitches)`; undefined where all are real. */
export function modelledText(modelled: RequestReport['modelled']): string | undefined {
  const [first] = modelled
  if (first === undefined) return undefined
  const devices = modelled.map(({ deviceId, device, model, preset }) =>
    model === first.model && preset === first.preset
      ? `${deviceId} as ${device}`
      : `${deviceId} as ${device} with ${model} (${preset})`,
  )
  return `modelled times: ${devices.join(', ')}, with ${first.model} (${first.preset})`
}
