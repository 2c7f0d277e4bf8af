/** The corpora of a host agent, as one of the things that it serves. */
import { join } from 'node:path'
import type { DeviceServiceFactory } from '@kvasir/agent/services'
import { CorpusServiceService } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { CorpusBulkService } from '@kvasir/runtime/corpus-bulk'
import { stateFolder } from '@kvasir/runtime/state-folder'
import { corpusControlService, corpusExportService } from './corpus-service.js'
import { CorpusStore } from './corpus-store.js'

export const corpora: DeviceServiceFactory = (device, { corpusDir, corpusBytes, deviceId }) => {
  const store = new CorpusStore({
    // Two agents of one machine keep their corpora apart.
    folder: corpusDir ?? join(stateFolder(), 'corpora', deviceId),
    bytesMax: corpusBytes,
    clock: device.clock,
    log: device.log,
  })
  return {
    control: [{ definition: CorpusServiceService, implementation: corpusControlService(device, store) }],
    kv: [{ definition: CorpusBulkService, implementation: corpusExportService(device, store) }],
    close: () => store.close(),
  }
}
