/**
 * Shows how far devices are with loading a model: bars that move on a terminal, else a line at each step
 * and every tenth of the way.
 */
import { MultiBar, Presets, type SingleBar } from 'cli-progress'
import type { LoadProgress } from './client/model-loading.js'
import type { ModelDevice } from './client/models.js'
import { formatBytes } from './format.js'
import { say } from './terminal.js'

const TENTHS = 10

export interface LoadDisplay {
  show(progress: readonly LoadProgress[]): void
  close(): void
}

export function loadDisplay(model: string): LoadDisplay {
  return process.stderr.isTTY ? bars() : lines(model)
}

/** `fetching 34 % of 1.20 GB from gpu-0`. */
export function describeArrival(device: ModelDevice): string {
  const { state, bytes, bytes_total: total, source_device_id: source, error } = device
  if (state === 'failed') return `failed: ${error ?? 'it does not say why'}`
  const share = total > 0 ? ` ${Math.floor((bytes / total) * 100)} % of ${formatBytes(total)}` : ''
  return `${state}${share}${source === null ? '' : ` from ${source}`}`
}

function bars(): LoadDisplay {
  const multi = new MultiBar(
    {
      format: '{device} |{bar}| {what}',
      clearOnComplete: true,
      hideCursor: true,
      stream: process.stderr,
      gracefulExit: false,
    },
    Presets.shades_classic,
  )
  const byDevice = new Map<string, SingleBar>()
  return {
    show(progress) {
      for (const { deviceId, now } of progress) {
        const what = now === undefined ? 'asked' : describeArrival(now)
        const total = now?.bytes_total || 1
        const value = now?.state === 'loaded' ? total : (now?.bytes ?? 0)
        const bar = byDevice.get(deviceId) ?? multi.create(total, 0)
        byDevice.set(deviceId, bar)
        bar.setTotal(total)
        bar.update(value, { device: deviceId, what })
      }
    },
    close: () => multi.stop(),
  }
}

function lines(model: string): LoadDisplay {
  const shown = new Map<string, string>()
  return {
    show(progress) {
      for (const { deviceId, now } of progress) {
        if (now === undefined) continue
        const tenth = now.bytes_total > 0 ? Math.floor((now.bytes / now.bytes_total) * TENTHS) : 0
        const step = `${now.state} ${tenth}`
        if (shown.get(deviceId) === step) continue
        shown.set(deviceId, step)
        say(`${model} on ${deviceId}: ${describeArrival(now)}`)
      }
    },
    close() {},
  }
}
