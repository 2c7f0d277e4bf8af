/**
 * Every span name and attribute that Kvasir's traces use.
 *
 * Rule T1: a span of an agent is a direct child of the coordinator's call span, never of
 * another agent's span, so an agent that is killed leaves no orphan.
 * Rule T2: times inside a span are microseconds since its start, on the clock of the
 * process that made it; no duration is computed across two clocks.
 */

export const SPAN = {
  /** Coordinator, the root: from the HTTP request to the last token. */
  request: 'request',
  /** Coordinator: validate, render the chat template, tokenize, hash. */
  prepare: 'prepare',
  /** Coordinator: one decision. */
  place: 'place',
  /** Coordinator, a call: memory and a slot on the decode device. */
  reserve: 'reserve',
  /** Coordinator, a call: prefill; parent of `prefill.run` and `kv.send`. */
  prefill: 'prefill',
  /** Coordinator, a call: decode; parent of `kv.receive` and `decode.run`. */
  decode: 'decode',
  /** Agent: the prefill on the device. */
  prefillRun: 'prefill.run',
  /** Agent: the KV transfer as its sender sees it. */
  kvSend: 'kv.send',
  /** Agent: the KV transfer as its receiver sees it. */
  kvReceive: 'kv.receive',
  /** Agent: the sequence's decode steps. */
  decodeRun: 'decode.run',
  /** Agent: cached blocks on their way from another device or tier. */
  kvFetch: 'kv.fetch',
  /** Agent: the pages of an offloaded sequence on the device that attends, from its lease to its end. */
  attendRun: 'attend.run',
  /** Agent: a shard of a corpus on its way from the owner into the device. */
  shardLoad: 'shard.load',
  /** Agent: BM25 and top-k over one shard, on the device or on the owner. */
  shardSearch: 'shard.search',
  /** Coordinator: one search, from the query to the documents; parent of the four below. */
  retrieve: 'retrieve',
  /** Coordinator, a call: from a query to weighted terms. */
  retrievePrepare: 'retrieve.prepare',
  /** Coordinator, a call: BM25 and top-k over one shard. */
  retrieveShard: 'retrieve.shard',
  /** Coordinator, a call: the texts of the documents found. */
  retrieveDocuments: 'retrieve.documents',
} as const

export type SpanName = (typeof SPAN)[keyof typeof SPAN]

export const ATTRIBUTE = {
  requestId: 'kvasir.request_id',
  /** Counts the placements of a request from 1. */
  epoch: 'kvasir.epoch',
  deviceId: 'kvasir.device_id',
  transferId: 'kvasir.transfer_id',
  tokens: 'kvasir.tokens',
  numericsChanged: 'kvasir.numerics_changed',
  nearTies: 'kvasir.near_ties',
  /** Code of the error that ended the span. */
  errorCode: 'kvasir.error_code',

  kvBytes: 'kvasir.kv.bytes',
  kvChunks: 'kvasir.kv.chunks',
  /** Layers whose blocks were read and sent together. */
  kvMergeLayers: 'kvasir.kv.merge_layers',
  kvBytesPerSecond: 'kvasir.kv.bytes_per_second',
  /** 1 − exposed ÷ busy: the share of the transfer hidden behind prefill. */
  kvOverlap: 'kvasir.kv.overlap',
  /** Sum of the chunks' transfer times. */
  kvBusyUs: 'kvasir.kv.busy_us',
  /** From the end of prefill to the last acknowledgement. */
  kvExposedUs: 'kvasir.kv.exposed_us',
  /** When each chunk was handed to the transport (array). */
  kvChunkSentUs: 'kvasir.kv.chunk_sent_us',
  /** When each chunk was acknowledged (array). */
  kvChunkAckedUs: 'kvasir.kv.chunk_acked_us',

  /** When each layer was done (array). */
  prefillLayerUs: 'kvasir.prefill.layer_us',
  /** When each token was sampled (array of at most TOKEN_TIMES_MAX). */
  decodeTokenUs: 'kvasir.decode.token_us',
  /** Most sequences that shared a step with this one. */
  decodeBatchMax: 'kvasir.decode.batch_max',

  /** Leading tokens that were in this device's memory, and those that were fetched. */
  cachedTokens: 'kvasir.cache.local_tokens',
  fetchedTokens: 'kvasir.cache.fetched_tokens',
  fetchedFrom: 'kvasir.cache.fetched_from',
  /** Tiers' names (array), and bytes that attention read from and that were moved into each (arrays alike). */
  tierNames: 'kvasir.tier.names',
  tierReadBytes: 'kvasir.tier.read_bytes',
  tierMovedBytes: 'kvasir.tier.moved_bytes',
  attentionMethod: 'kvasir.attention.method',
  attentionBudget: 'kvasir.attention.budget',
  attendDevice: 'kvasir.attention.device',
  attentionPages: 'kvasir.attention.pages',
  attentionPagesRead: 'kvasir.attention.pages_read',
  attentionRemoteUs: 'kvasir.attention.remote_us',
  attentionWireBytes: 'kvasir.attention.wire_bytes',
  /** Time of each of the four stages, microseconds. */
  stagePrepareUs: 'kvasir.stage.prepare_us',
  stageRelevancyUs: 'kvasir.stage.relevancy_us',
  stageRetrievalUs: 'kvasir.stage.retrieval_us',
  stageApplyUs: 'kvasir.stage.apply_us',
  corpus: 'kvasir.corpus',
  documents: 'kvasir.documents',
  shard: 'kvasir.shard',

  /** The catalogued device and model whose times a paced device keeps, for people. */
  pace: 'kvasir.pace',

  placementReason: 'kvasir.placement.reason',
  prefillDevice: 'kvasir.placement.prefill_device',
  decodeDevice: 'kvasir.placement.decode_device',
} as const

/** Attributes of OpenTelemetry's GenAI conventions, which are still in development. */
export const GEN_AI = {
  operationName: 'gen_ai.operation.name',
  providerName: 'gen_ai.provider.name',
  requestModel: 'gen_ai.request.model',
  requestMaxTokens: 'gen_ai.request.max_tokens',
  requestTemperature: 'gen_ai.request.temperature',
  requestTopP: 'gen_ai.request.top_p',
  requestSeed: 'gen_ai.request.seed',
  requestStream: 'gen_ai.request.stream',
  responseId: 'gen_ai.response.id',
  responseModel: 'gen_ai.response.model',
  responseFinishReasons: 'gen_ai.response.finish_reasons',
  usageInputTokens: 'gen_ai.usage.input_tokens',
  usageOutputTokens: 'gen_ai.usage.output_tokens',
  usageCacheReadInputTokens: 'gen_ai.usage.cache_read.input_tokens',
} as const

/** Most entries of a `decode.token_us` array. */
export const TOKEN_TIMES_MAX = 4_096
