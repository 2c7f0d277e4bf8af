/**
 * A whole gateway for tests: real HTTP, scripted serving side, letters for a model.
 */
import { systemClock } from '@kvasir/runtime/clock'
import { createLogger } from '@kvasir/runtime/log'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import { TraceStore, type TraceStoreOptions } from '../../trace-store/trace-store.js'
import { createGateway, type Gateway } from '../gateway.js'
import type { GatewayContext } from '../gateway-context.js'
import { fixedTextModels, inlineEncoder, letterModel, modelWithoutTemplate } from './letter-model.js'
import { noCorpora } from './no-corpora.js'
import { type ScriptedService, scriptedService } from './scripted-service.js'

export interface TestGateway extends Gateway {
  readonly service: ScriptedService
  readonly traces: TraceStore
  /** After `serve`. */
  readonly url: string
  serve(): Promise<string>
}

export async function testGateway(
  overrides: Partial<Omit<GatewayContext, 'service'>> & { service?: ScriptedService } = {},
): Promise<TestGateway> {
  const models = [letterModel(), modelWithoutTemplate()]
  const service = overrides.service ?? scriptedService()
  const traces = overrides.traces ?? testTraceStore()
  const gateway = await createGateway({
    textModels: fixedTextModels(models),
    profileDefault: 'exact',
    encoder: inlineEncoder(models),
    apiKeys: [],
    corpora: noCorpora,
    limits: {
      bodyBytesMax: 1_000_000,
      uploadBytesMax: 1_000_000,
      streamBufferBytesMax: 65_536,
      streamDrainMs: 2_000,
    },
    clock: systemClock,
    log: createLogger({ service: 'test', terminal: false }),
    ...overrides,
    service,
    traces,
  })
  let url = ''
  return {
    ...gateway,
    service,
    traces,
    get url() {
      return url
    },
    async serve() {
      const { port } = await gateway.listen('127.0.0.1', 0)
      url = `http://127.0.0.1:${port}`
      return url
    },
  }
}

export function testTraceStore(overrides: Partial<TraceStoreOptions> = {}): TraceStore {
  return new TraceStore({
    clock: systemClock,
    rootSpanName: SPAN.request,
    requestIdAttribute: ATTRIBUTE.requestId,
    tracesMax: 100,
    bytesMax: 1_000_000,
    sampleRatio: 1,
    slowRequestMs: 1_000,
    graceMs: 1_500,
    ...overrides,
  })
}
