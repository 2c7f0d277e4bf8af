/**
 * A device of a bench's own process: a real driver with a model and its pool behind the real services, known to no
 * cluster.
 */
import { ortFactory } from '@kvasir/agent/ort-factory'
import type { ServedModel } from '@kvasir/agent/served-model'
import { type ServingDevice, startServingDevice } from '@kvasir/agent/serving-device'
import { agentSettings } from '@kvasir/agent/settings'
import { inspectModel } from '@kvasir/engine/model-plan'
import { EXACT } from '@kvasir/engine/numerics'
import { systemClock } from '@kvasir/runtime/clock'
import { InternalError } from '@kvasir/runtime/errors'
import { createLogger } from '@kvasir/runtime/log'

export type BenchDevice = ServingDevice & { readonly served: ServedModel }

/** @param blocks of the pool */
export async function startBenchDevice(model: string, blocks: number): Promise<BenchDevice> {
  const { poolBlockBytes } = await inspectModel({ model, numerics: EXACT })
  const serving = await startServingDevice({
    definition: {
      kind: 'bench',
      capabilities: ['CAPABILITY_DECODE', 'CAPABILITY_ATTEND'],
      deviceModel: 'the process of this bench',
      tiers: [{ name: 'memory', kind: 'TIER_KIND_HOST_DRAM', bytes: 'tierBytes' }],
      decodeSlotsDefault: 1,
      linkClass: 'loopback',
      driver: ortFactory,
    },
    settings: agentSettings.parse({ deviceId: 'bench', model, tierBytes: blocks * poolBlockBytes }),
    clock: systemClock,
    log: createLogger({ service: 'bench', level: 'error', terminal: false }),
  })
  const [served] = serving.device.models.all
  if (served === undefined) throw new InternalError('The bench has no model.')
  return { ...serving, served }
}

export async function withBenchDevice<T>(
  model: string,
  blocks: number,
  work: (device: BenchDevice) => Promise<T>,
): Promise<T> {
  const device = await startBenchDevice(model, blocks)
  try {
    return await work(device)
  } finally {
    await device.close()
  }
}
