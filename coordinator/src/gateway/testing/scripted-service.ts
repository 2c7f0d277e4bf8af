/**
 * A serving side for tests, whose tokens come when the test says so.
 */
import type { Token } from '@kvasir/proto/kvasir/inference/v1/inference'
import { AsyncQueue, deferred } from '@kvasir/runtime/deferred'
import type {
  ClusterReport,
  Generation,
  GenerationEvent,
  GenerationRequest,
  GenerationService,
  KvReport,
  RequestReport,
} from '../../generation.js'

import type { LoadOrder, ModelOnDevice, ModelReport, UnloadOrder } from '../../model-reports.js'

type CancelCause = Parameters<Generation['cancel']>[0]

export interface ScriptedGeneration {
  readonly request: GenerationRequest
  /** One event with these token ids. */
  tokens(...ids: number[]): void
  finish(reason?: 'stop' | 'length'): void
  fail(error: Error): void
  /** Resolves when the gateway cancels. */
  readonly cancelled: Promise<CancelCause>
}

export interface ScriptedService extends GenerationService {
  /** Called for each submission; by default nothing happens until the test acts. */
  onSubmit: (generation: ScriptedGeneration) => void
  readonly submitted: ScriptedGeneration[]
  /** Resolves with the next submission that nobody has waited for. */
  next(): Promise<ScriptedGeneration>
  /** What devices have; `letters` on gpu-0 by default. */
  modelReports: readonly ModelReport[]
  /** What was asked of devices, and what they say: nothing by default, which is yes. */
  readonly orders: (LoadOrder | UnloadOrder)[]
  refusal: string | null
}

/** Token `index` with a log probability and two alternatives that can be told apart. */
export function testToken(index: number, id: number): Token {
  return {
    index,
    id,
    logprob: -0.5 - index,
    top: [
      { id, logprob: -0.5 - index },
      { id: 65, logprob: -9 },
    ],
    nearTie: false,
  }
}

export function scriptedService(report: Partial<RequestReport> = {}): ScriptedService {
  const arrivals = new AsyncQueue<ScriptedGeneration>(1_000)
  const iterator = arrivals[Symbol.asyncIterator]()
  const service: ScriptedService = {
    onSubmit: () => {},
    submitted: [],
    modelReports: [LETTERS],
    orders: [],
    refusal: null,
    async next() {
      const { value } = await iterator.next()
      if (value === undefined) throw new Error('no more submissions')
      return value
    },
    submit(request) {
      const events = new AsyncQueue<GenerationEvent>(1_000_000)
      const cancelled = deferred<CancelCause>()
      let index = 0
      const generation: ScriptedGeneration = {
        request,
        cancelled: cancelled.promise,
        tokens: (...ids) =>
          void events.push({ type: 'tokens', tokens: ids.map((id) => testToken(index++, id)) }),
        finish(reason = 'length') {
          events.push({ type: 'finished', reason })
          events.end()
        },
        fail: (error) => events.fail(error),
      }
      service.submitted.push(generation)
      arrivals.push(generation)
      service.onSubmit(generation)
      return {
        events,
        cancel(cause) {
          cancelled.resolve(cause)
          events.end()
        },
      }
    },
    request: (id, tenantSalt) => {
      const known = service.submitted.find(({ request }) => request.requestId === id)
      if (!known) return undefined
      const { model, retrieval } = known.request
      const isOwn = tenantSalt !== undefined && Buffer.from(tenantSalt).equals(known.request.tenantSalt)
      return { ...REPORT, requestId: id, model, retrieval: isOwn ? retrieval : null, ...report }
    },
    cluster: () => CLUSTER,
    kv: () => KV,
    completions: () => ({ devices: [], completions: [] }),
    evict: async (deviceIds) => deviceIds.map((deviceId) => ({ deviceId, blocks: 3, error: null })),
    models: () => service.modelReports,
    modelTraits: (digest) => {
      const report = service.modelReports.find((model) => model.digest === digest)
      return report && { profiles: report.profiles, slidingWindowTokens: null }
    },
    async loadModel(deviceIds, order) {
      service.orders.push(order)
      return deviceIds.map((deviceId) => ({ deviceId, error: service.refusal }))
    },
    async unloadModel(orders) {
      service.orders.push(...orders)
      return orders.map(({ deviceId, profile }) => ({ deviceId, profile, error: service.refusal }))
    },
  }
  return service
}

/** On a device. */
export const ON_GPU: ModelOnDevice = {
  deviceId: 'gpu-0',
  profile: 'exact',
  state: 'loaded',
  numerics: 'f32',
  weightBytes: 4_000,
  kvBytes: 1_000,
  bytes: 0,
  bytesTotal: 0,
  sourceDeviceId: null,
  error: null,
}

export const LETTERS: ModelReport = {
  name: 'letters',
  digest: 'd1',
  contextTokensMax: 100,
  profiles: ['exact'],
  servedProfiles: ['exact'],
  devices: [ON_GPU],
}

const REPORT: RequestReport = {
  requestId: '',
  traceId: '',
  model: '',
  profile: 'exact',
  state: 'finished',
  placements: [],
  promptTokens: 0,
  completionTokens: 0,
  cachedTokens: 0,
  numericsChanged: false,
  nearTies: 0,
  admission: {
    ...{ priority: 0, ttftDeadlineMs: null, waitedMs: 0, tokensAhead: 0 },
    reason: 'It did not wait: devices had room at once.',
  },
  finishReason: 'length',
  error: null,
  predicted: null,
  measured: { queueMs: null, ttftMs: null, tpotMs: null },
  kv: { bytes: 4_096, chunks: 1, overlap: null, bytesPerSecond: null, modelledBytes: null },
  modelled: [],
  prefix: null,
  attention: null,
  retrieval: null,
  stages: [],
  tierReads: [],
}

const CLUSTER: ClusterReport = {
  coordinatorId: 'coordinator-test',
  busConnected: true,
  queuedRequests: 3,
  activeRequests: 2,
  devices: [
    {
      deviceId: 'gpu-0',
      incarnation: '1',
      kind: 'gpu',
      deviceModel: 'test GPU',
      machine: 'm1',
      state: 'ready',
      capabilities: ['prefill', 'decode'],
      models: [
        {
          name: 'letters',
          digest: 'd1',
          profile: 'exact',
          numerics: 'f32',
          contextTokensMax: 100,
          weightBytes: 4_000,
          kvBytes: 1_000,
          decodeSlotsUsed: 1,
        },
      ],
      arrivals: [],
      modelBytes: 8_000,
      modelBytesUsed: 5_000,
      decodeSlots: 8,
      decodeSlotsUsed: 1,
      prefillTokensWaiting: 0,
      leases: 1,
      tiers: [
        { name: 'hbm', kind: 'hbm', capacityBytes: 1_000, leasedBytes: 250, bandwidthBytesPerSecond: 1e9 },
      ],
      link: { class: 'loopback', bytesPerSecond: 0 },
      modelled: true,
      pace: {
        ...{
          device: 'a100',
          model: 'llama-2-7b',
          preset: 'glitches',
          kvTokens: 100,
          cataloguedKvTokens: 9_000,
        },
        ...{ steps: 50, lateSteps: 2, lateMs: 30, busyMs: 4_000 },
      },
      lastHeardMs: 10,
      endpoints: { control: '127.0.0.1:1', kv: '127.0.0.1:2' },
    },
  ],
}

const KV: KvReport = {
  directory: { blocks: 7, blocksMax: 100, droppedBlocks: 5, healing: ['gpu-1'] },
  devices: [
    {
      deviceId: 'gpu-0',
      kind: 'gpu',
      state: 'ready',
      directoryBlocks: 7,
      tiers: [
        {
          name: 'hbm',
          kind: 'hbm',
          capacityBytes: 1_000,
          leasedBytes: 250,
          cachedBytes: 500,
          bandwidthBytesPerSecond: 1e9,
          modelled: false,
          lookups: 20,
          hits: 15,
          hitRate: 0.75,
          inBytes: 300,
          outBytes: 400,
          readBytes: 9_000,
          droppedBlocks: 2,
        },
      ],
    },
  ],
}
