/** MemoryService as gRPC sees it, with one line in the log for each call, under its trace. */
import { type MemoryServiceServer, MemoryServiceService } from '@kvasir/proto/kvasir/memory/v1/memory'
import { KvasirError } from '@kvasir/runtime/errors'
import { bidi } from '@kvasir/runtime/rpc-server'
import { runAttend } from './attend-job.js'
import type { Device } from './device.js'
import type { DeviceService } from './services.js'

/** For `DeviceDefinition.services` of a device with CAPABILITY_ATTEND. */
export function memoryService(device: Device): DeviceService {
  const implementation: MemoryServiceServer = {
    attend: bidi(async (incoming, call, send) => {
      const { log, clock } = device
      const startedAtMs = clock.nowMs()
      const facts: { requestId?: string; epoch?: number; pages?: number } = {}
      const told = () => ({ ...facts, durationMs: Math.round(clock.nowMs() - startedAtMs) })
      try {
        await runAttend(device, incoming, call, send, (open) => Object.assign(facts, open))
        log.info(told(), 'attend finished')
      } catch (thrown) {
        const { code, message } = KvasirError.from(thrown)
        if (code === 'cancelled') log.info(told(), 'attend cancelled')
        else log.warn({ ...told(), code }, `attend failed: ${message}`)
        throw thrown
      }
    }),
  }
  return { control: [{ definition: MemoryServiceService, implementation }] }
}
