/**
 * What Prometheus reads at `GET /metrics`.
 *
 * Requests are counted as they end; the cluster's state is read when it is asked for.
 * Labels have few values: models that exist, devices that advertise, fixed words.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { ShedReason } from '../core/protocol.js'
import type { GenerationService } from '../generation.js'
import { SHED_REASONS } from '../shed-error.js'
import type { TraceStore } from '../trace-store/trace-store.js'
import { kvMetrics } from './kv-metrics.js'
import { paceMetrics } from './pace-metrics.js'

const DURATION_BUCKETS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200]
const FIRST_TOKEN_BUCKETS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20]
const TOKEN_BUCKETS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]

export type Outcome = 'finished' | 'refused' | 'shed' | 'failed' | 'client_gone' | 'slow_client'

/** One completion request that has ended. */
export interface EndedRequest {
  readonly operation: string
  /** Empty where the request never named a model that exists. */
  readonly model: string
  readonly outcome: Outcome
  readonly durationMs: number
  readonly ttftMs: number | undefined
  readonly tpotMs: number | undefined
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly completionTokens: number
  readonly kvBytes: number
  readonly priority: number
  /** From its submission to its place on devices. */
  readonly queueMs: number | undefined
  /** Why it was given up while it waited. */
  readonly shed: ShedReason | undefined
}

export interface GatewayMetrics {
  readonly contentType: string
  requestStarted(): void
  requestEnded(request: EndedRequest): void
  /** The page that Prometheus reads. */
  render(): Promise<string>
}

export function createMetrics(service: GenerationService, traces: TraceStore): GatewayMetrics {
  const registry = new Registry()
  const registers = [registry]
  collectDefaultMetrics({ register: registry })
  const labelNames = ['gen_ai_operation_name', 'gen_ai_request_model']

  const duration = new Histogram({
    name: 'gen_ai_server_request_duration_seconds',
    help: 'From the arrival of a completion request or search to the end of its response.',
    labelNames: [...labelNames, 'outcome'],
    buckets: DURATION_BUCKETS,
    registers,
  })
  const firstToken = new Histogram({
    name: 'gen_ai_server_time_to_first_token_seconds',
    help: 'From the arrival of a completion request to its first token.',
    labelNames,
    buckets: FIRST_TOKEN_BUCKETS,
    registers,
  })
  const perToken = new Histogram({
    name: 'gen_ai_server_time_per_output_token_seconds',
    help: 'Mean time between the tokens of one answer, the first one excluded.',
    labelNames,
    buckets: TOKEN_BUCKETS,
    registers,
  })
  const tokens = new Counter({
    name: 'kvasir_tokens_total',
    help: 'Tokens of ended requests: prompt (cached ones included), cached, completion.',
    labelNames: ['kind'],
    registers,
  })
  const ended = new Counter({
    name: 'kvasir_requests_ended_total',
    help: 'Completion requests and searches that ended, by outcome.',
    labelNames: ['outcome'],
    registers,
  })
  const kvMoved = new Counter({
    name: 'kvasir_kv_moved_bytes_total',
    help: 'Bytes of KV cache moved between devices for ended requests.',
    registers,
  })
  const inFlight = new Gauge({
    name: 'kvasir_requests_in_flight',
    help: 'Completion requests and searches whose response has not ended.',
    registers,
  })

  const admission = new Counter({
    name: 'kvasir_admission_total',
    help: 'Completion requests by what admission made of them: served, or shed and why.',
    labelNames: ['outcome'],
    registers,
  })
  for (const outcome of ['served', ...SHED_REASONS]) admission.inc({ outcome }, 0)
  const queueWait = new Histogram({
    name: 'kvasir_queue_wait_seconds',
    help: 'From the submission of a completion request that finished to its place on devices, by priority.',
    labelNames: ['priority'],
    buckets: FIRST_TOKEN_BUCKETS,
    registers,
  })

  const readCluster = clusterGauges(registry, service)
  const readKv = kvMetrics(registry, service)
  const readTraces = traceGauges(registry, traces)

  return {
    contentType: registry.contentType,
    requestStarted: () => inFlight.inc(),
    requestEnded(request) {
      inFlight.dec()
      ended.inc({ outcome: request.outcome })
      if (request.shed !== undefined) admission.inc({ outcome: request.shed })
      if (request.outcome === 'refused' || request.outcome === 'shed') return
      const labels = { gen_ai_operation_name: request.operation, gen_ai_request_model: request.model }
      duration.observe({ ...labels, outcome: request.outcome }, request.durationMs / 1000)
      if (request.ttftMs !== undefined) admission.inc({ outcome: 'served' })
      if (request.queueMs !== undefined) {
        queueWait.observe({ priority: String(request.priority) }, request.queueMs / 1000)
      }
      if (request.ttftMs !== undefined) firstToken.observe(labels, request.ttftMs / 1000)
      if (request.tpotMs !== undefined) perToken.observe(labels, request.tpotMs / 1000)
      tokens.inc({ kind: 'prompt' }, request.promptTokens)
      tokens.inc({ kind: 'cached' }, request.cachedTokens)
      tokens.inc({ kind: 'completion' }, request.completionTokens)
      kvMoved.inc(request.kvBytes)
    },
    render() {
      readCluster()
      readKv()
      readTraces()
      return registry.metrics()
    },
  }
}

/** Returns the function that sets them, all from one reading. */
function clusterGauges(registry: Registry, service: GenerationService): () => void {
  const registers = [registry]
  const queued = new Gauge({
    name: 'kvasir_requests_queued',
    help: 'Requests that wait for devices.',
    registers,
  })
  const active = new Gauge({
    name: 'kvasir_requests_active',
    help: 'Requests that devices work on.',
    registers,
  })
  const devices = new Gauge({
    name: 'kvasir_devices',
    help: 'Devices, by state.',
    labelNames: ['state'],
    registers,
  })
  const slots = new Gauge({
    name: 'kvasir_decode_slots',
    help: 'Decode slots of each device, all and in use.',
    labelNames: ['device', 'use'],
    registers,
  })
  const bus = new Gauge({
    name: 'kvasir_bus_connected',
    help: 'Whether this coordinator is connected to NATS.',
    registers,
  })
  const setPace = paceMetrics(registry)
  return () => {
    const cluster = service.cluster()
    for (const gauge of [devices, slots]) gauge.reset()
    queued.set(cluster.queuedRequests)
    active.set(cluster.activeRequests)
    bus.set(cluster.busConnected ? 1 : 0)
    for (const state of ['ready', 'draining', 'lost']) devices.set({ state }, 0)
    for (const device of cluster.devices) {
      devices.inc({ state: device.state })
      slots.set({ device: device.deviceId, use: 'all' }, device.decodeSlots)
      slots.set({ device: device.deviceId, use: 'used' }, device.decodeSlotsUsed)
    }
    setPace(cluster.devices)
  }
}

function traceGauges(registry: Registry, traces: TraceStore): () => void {
  const registers = [registry]
  const held = new Gauge({ name: 'kvasir_traces_held', help: 'Traces held.', registers })
  const bytes = new Gauge({
    name: 'kvasir_traces_held_bytes',
    help: 'Memory held by traces, roughly.',
    registers,
  })
  const dropped = new Gauge({
    name: 'kvasir_trace_spans_dropped',
    help: 'Spans that did not fit into their trace since the start.',
    registers,
  })
  return () => {
    const stats = traces.stats()
    held.set(stats.traces)
    bytes.set(stats.bytes)
    dropped.set(stats.spansDropped)
  }
}
