/**
 * What Prometheus reads of paced agents: their steps, and those that this machine computed more slowly than the
 * catalogued device would have, on which a study of the live cluster must not rest.
 *
 * Agents count since their own start, so a counter here may fall when one restarts, as Prometheus expects of counters.
 */
import { Counter, type Registry } from 'prom-client'
import type { DeviceReport } from '../generation.js'

type Pace = NonNullable<DeviceReport['pace']>

const COUNTS: readonly [name: string, help: string, read: (pace: Pace) => number][] = [
  ['kvasir_paced_steps_total', 'Steps of a paced agent, whose times are modelled.', ({ steps }) => steps],
  [
    'kvasir_paced_busy_seconds_total',
    'Time of these steps on the catalogued device.',
    ({ busyMs }) => busyMs / 1_000,
  ],
  [
    'kvasir_paced_late_steps_total',
    'Steps of a paced agent that took longer than on the catalogued device.',
    ({ lateSteps }) => lateSteps,
  ],
  ['kvasir_paced_late_seconds_total', 'By how much in all.', ({ lateMs }) => lateMs / 1_000],
]

/** Returns the function that sets them. */
export function paceMetrics(registry: Registry): (devices: readonly DeviceReport[]) => void {
  const registers = [registry]
  const counts = COUNTS.map(([name, help, read]) => {
    return { counter: new Counter({ name, help, labelNames: ['device', 'paced_as'], registers }), read }
  })
  return (devices) => {
    for (const { counter } of counts) counter.reset()
    for (const { deviceId, pace } of devices) {
      if (pace === null) continue
      const labels = { device: deviceId, paced_as: pace.device }
      for (const { counter, read } of counts) counter.inc(labels, read(pace))
    }
  }
}
