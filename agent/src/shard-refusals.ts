/** CorpusService where nothing of it is served: what an endpoint does serve is put in place of a refusal. */
import type { CorpusServiceServer } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { UnsupportedError } from '@kvasir/runtime/errors'
import { clientStream, serverStream, unary } from '@kvasir/runtime/rpc-server'

export function corpusRefusals(deviceId: string): CorpusServiceServer {
  const refuse = async (): Promise<never> => {
    throw new UnsupportedError(
      `Device ${deviceId} does not serve this call on this endpoint: Export is on the KV endpoint of a corpus' owner, all else on control endpoints; its capabilities say what it does.`,
      { ids: { deviceId } },
    )
  }
  return {
    create: unary(refuse),
    ingest: clientStream(refuse),
    list: unary(refuse),
    delete: unary(refuse),
    prepare: unary(refuse),
    documents: unary(refuse),
    export: serverStream(refuse),
    load: unary(refuse),
    unload: unary(refuse),
    retrieve: unary(refuse),
  }
}
