/**
 * The coordinator process: joins bus, serving side, gateway and traces, and ends them in
 * order. Not its job: anything a request needs.
 */
import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { connectBus } from '@kvasir/runtime/bus'
import { systemClock } from '@kvasir/runtime/clock'
import { loadProcessConfig } from '@kvasir/runtime/config'
import { announceReady, type ProcessContext, type Running, runProcess } from '@kvasir/runtime/lifecycle'
import { createLogger, type Logger } from '@kvasir/runtime/log'
import { PROTOCOL_VERSION } from '@kvasir/runtime/protocol'
import { startTelemetry } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import { type CoordinatorConfig, coordinatorConfigSchema, weightOf } from './config.js'
import { advertiseCoordinator } from './coordinator-record.js'
import { createGateway } from './gateway/gateway.js'
import { listenOnPort } from './gateway/port-choice.js'
import { createPromptEncoder } from './gateway/prompt-encoder.js'
import { dropTextFiles, fetchFromAny } from './models/text-files.js'
import { TextModelRegistry } from './models/text-models.js'
import { createCorpora } from './retrieval/corpora.js'
import type { AdvertisedModel } from './serving/cluster-models.js'
import { createServing } from './serving/serving.js'
import { createStoreExporter } from './trace-store/span-exporter.js'
import { forwardTarget, TraceForwarder } from './trace-store/trace-forwarder.js'
import { TraceStore } from './trace-store/trace-store.js'

/** Agents' last spans come within this time of a root's end. */
const TRACE_GRACE_MS = 1_500
const TRACE_SWEEP_MS = 250
const FORWARD_CLOSE_MS = 1_000
/** Kept back of the drain's time for stopping what did not end. */
const DRAIN_RESERVE_MS = 1_000

runProcess({ name: 'coordinator', start })

async function start(context: ProcessContext): Promise<Running> {
  const config = loadProcessConfig(coordinatorConfigSchema)
  const coordinatorId = config.coordinatorId ?? `coordinator-${randomBytes(4).toString('hex')}`
  const log = createLogger({
    service: 'coordinator',
    terminal: config.logFile === undefined,
    ...(config.logFile === undefined ? {} : { file: config.logFile }),
  })
  // Before a terminal a failed start is one sentence, which runProcess prints; a file gets all of it.
  if (config.logFile !== undefined) context.log = log
  const clock = systemClock

  const encoder = createPromptEncoder({ jobsMax: config.promptsWaitingMax })
  const textModels = new TextModelRegistry<AdvertisedModel>({
    user: encoder,
    fetch: (model, signal) =>
      fetchFromAny(
        model.devices.map((device) => () => serving.modelFiles(device)),
        model,
        signal,
      ),
    drop: dropTextFiles,
    log,
  })
  for (const spec of config.model) await textModels.give(spec)
  const bus = await connectBus({ url: config.nats, name: coordinatorId, log })
  const { traces, closeTraces } = startTraces(config, coordinatorId, log)
  const serving = createServing({
    ...{ bus, clock, log, coordinatorId },
    queuedMax: config.queuedMax,
    placementDeadlineMs: config.placementDeadlineMs,
    requestDeadlineMs: config.requestDeadlineMs,
    attentionDefault: config.attentionDefault,
    ...admissionOf(config),
  })
  const corpora = createCorpora({ nodes: () => serving.retrievalNodes(), clock, log })
  serving.onModels(() => textModels.update(serving.advertisedModels()))
  const gateway = await createGateway({
    service: serving,
    textModels,
    profileDefault: config.profile,
    encoder,
    corpora,
    traces,
    apiKeys: config.apiKeys,
    limits: config,
    clock,
    log,
  })
  const { port, note } = await listenOnPort(config, (port) => gateway.listen(config.host, port))
  warnIfOpen(config, log)

  const apiUrl = urlOf(config.advertiseHost ?? (isWildcard(config.host) ? hostname() : config.host), port)
  const record = await advertiseCoordinator(
    bus,
    {
      coordinatorId,
      incarnation: BigInt(Date.now()),
      apiUrl,
      otlpUrl: `${apiUrl}${gateway.intakePath}`,
      protocolVersion: PROTOCOL_VERSION,
    },
    log,
  )
  const url = urlOf(isWildcard(config.host) ? '127.0.0.1' : config.host, port)
  log.info({ coordinatorId, models: textModels.names() }, `listening on ${url}`)
  context.log = log
  announceReady({ url, port, coordinatorId, ...(note === undefined ? {} : { portNote: note }) })

  return {
    async drain(deadlineMs) {
      const endMs = clock.nowMs() + deadlineMs
      await gateway.drain(Math.max(0, deadlineMs - DRAIN_RESERVE_MS))
      await serving.drain(Math.max(0, endMs - clock.nowMs()))
    },
    async close() {
      await record.close()
      await gateway.close()
      corpora.close()
      textModels.close()
      await Promise.all([serving.close(), encoder.close()])
      await closeTraces()
      await bus.close()
    },
  }
}

function startTraces(config: CoordinatorConfig, coordinatorId: string, log: Logger) {
  const target = forwardTarget(process.env)
  const forwarder = target && new TraceForwarder({ ...target, log })
  const traces = new TraceStore({
    clock: systemClock,
    rootSpanName: SPAN.request,
    requestIdAttribute: ATTRIBUTE.requestId,
    tracesMax: config.tracesMax,
    bytesMax: config.traceBytesMax,
    sampleRatio: config.traceSampleRatio,
    slowRequestMs: config.slowRequestMs,
    graceMs: TRACE_GRACE_MS,
    onKept: (spans) => forwarder?.push(spans),
  })
  const exporter = createStoreExporter((spans) => traces.add(spans))
  const telemetry = startTelemetry({ service: 'coordinator', instance: coordinatorId, exporter })
  const sweep = setInterval(() => traces.sweep(), TRACE_SWEEP_MS)
  return {
    traces,
    async closeTraces() {
      clearInterval(sweep)
      await telemetry.close()
      traces.sweep(0)
      await forwarder?.close(FORWARD_CLOSE_MS)
    },
  }
}

function pairOf(text: string): (readonly [string, number])[] {
  const pair = weightOf(text)
  return pair ? [pair] : []
}

function admissionOf({ admission, ttftDeadlineMs, tenantWeights, ...config }: CoordinatorConfig) {
  return {
    admission: {
      isOn: admission,
      ...(ttftDeadlineMs === undefined ? {} : { ttftDeadlineMs }),
      tenantWeights: Object.fromEntries(tenantWeights.flatMap(pairOf)),
    },
    policy: { order: config.orderPolicy, pick: config.pickPolicy, decodeAssist: config.decodeAssist },
  }
}

function warnIfOpen(config: CoordinatorConfig, log: Logger): void {
  const isLoopback = /^(127\.|localhost$|::1$)/.test(config.host)
  if (isLoopback || config.apiKeys.length > 0) return
  log.warn(`Everyone who reaches ${config.host} may use this API. Set KVASIR_API_KEYS to ask for a key.`)
}

function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::'
}

function urlOf(host: string, port: number): string {
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`
}
