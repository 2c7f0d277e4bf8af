/**
 * Planned attention in the calls of one epoch: what devices are told of it, and what they answer.
 */
import {
  type Attention,
  type AttentionFigures,
  AttentionMethod,
  type AttentionOffload,
} from '@kvasir/proto/kvasir/inference/v1/inference'
import type { Lease } from '@kvasir/proto/kvasir/kv/v1/kv'
import { AttendMode } from '@kvasir/proto/kvasir/memory/v1/memory'
import { UnreachableError } from '@kvasir/runtime/errors'
import type { AttentionPlan } from '../core/attention-plan.js'
import type { CompletionRecord } from '../core/completion-record.js'
import type { Decision } from '../core/decision.js'
import type { DeviceClients } from './device-clients.js'

/** Sums over the decode steps of a sequence; times on the clock of the device that ran the stage. */
export interface AttentionSums {
  /** Layers times steps. */
  readonly calls: number
  readonly steps: number
  readonly pages: number
  readonly pagesRead: number
  readonly prepareUs: number
  readonly relevancyUs: number
  readonly retrievalUs: number
  readonly applyUs: number
  readonly remoteUs: number
  readonly wireBytes: number
}

export const NO_ATTENTION: AttentionSums = {
  calls: 0,
  steps: 0,
  pages: 0,
  pagesRead: 0,
  prepareUs: 0,
  relevancyUs: 0,
  retrievalUs: 0,
  applyUs: 0,
  remoteUs: 0,
  wireBytes: 0,
}

const METHODS: Record<AttentionPlan['method'], AttentionMethod> = {
  dense: AttentionMethod.DENSE,
  'page-bounds': AttentionMethod.PAGE_BOUNDS,
  random: AttentionMethod.RANDOM,
  recent: AttentionMethod.RECENT,
}

/** Undefined for dense, which is what devices do unless told otherwise. */
export function attentionMessage({ method, budget }: AttentionPlan): Attention | undefined {
  if (method === 'dense') return undefined
  return {
    method: METHODS[method],
    budgetTokens: budget && 'tokens' in budget ? budget.tokens : 0,
    budgetShare: budget && 'share' in budget ? budget.share : 0,
  }
}

/** Throws UnreachableError, which names the attending device, where it has left. */
export function offloadMessage(
  { attend, place }: AttentionPlan,
  lease: Lease | undefined,
  clients: DeviceClients,
): AttentionOffload | undefined {
  if (!attend) return undefined
  const { deviceId } = attend
  const endpoint = clients.controlEndpoint(attend)
  if (endpoint === undefined) {
    const message = `Device ${deviceId}, which was to attend, has left; place the request anew.`
    throw new UnreachableError(message, { ids: { deviceId } })
  }
  return { deviceId, endpoint, lease, mode: place === 'partial' ? AttendMode.PARTIAL : AttendMode.INDICES }
}

export function readAttention(figures: AttentionFigures | undefined, steps: number): AttentionSums | null {
  if (!figures) return null
  return {
    calls: Number(figures.calls),
    steps,
    pages: Number(figures.pages),
    pagesRead: Number(figures.pagesRead),
    prepareUs: Number(figures.prepareUs),
    relevancyUs: Number(figures.relevancyUs),
    retrievalUs: Number(figures.retrievalUs),
    applyUs: Number(figures.applyUs),
    remoteUs: Number(figures.remoteUs),
    wireBytes: Number(figures.wireBytes),
  }
}

export function addAttention(a: AttentionSums, b: AttentionSums): AttentionSums {
  return {
    calls: a.calls + b.calls,
    steps: a.steps + b.steps,
    pages: a.pages + b.pages,
    pagesRead: a.pagesRead + b.pagesRead,
    prepareUs: a.prepareUs + b.prepareUs,
    relevancyUs: a.relevancyUs + b.relevancyUs,
    retrievalUs: a.retrievalUs + b.retrievalUs,
    applyUs: a.applyUs + b.applyUs,
    remoteUs: a.remoteUs + b.remoteUs,
    wireBytes: a.wireBytes + b.wireBytes,
  }
}

/** For the cost model of the stages: means of one layer and step. `pages`: of the sequence half-way through. */
export function attentionCompletion(
  { attention, decode }: Decision,
  sums: AttentionSums,
  pages: number,
): CompletionRecord['attention'] {
  if (sums.calls === 0 || sums.pages === 0) return undefined
  const meanMs = (us: number): number => us / sums.calls / 1000
  const attendDeviceId = attention.attend?.deviceId ?? decode.deviceId
  return {
    ...(attention.method === 'page-bounds' ? { chooserDeviceId: attendDeviceId } : {}),
    applierDeviceId: attention.place === 'partial' ? attendDeviceId : decode.deviceId,
    pages,
    pagesRead: (pages * sums.pagesRead) / sums.pages,
    relevancyMs: meanMs(sums.relevancyUs),
    retrievalMs: meanMs(sums.retrievalUs),
    applyMs: meanMs(sums.applyUs),
  }
}

/**
 * Tokens whose KV the decoding device read in a step half-way through, for the cost model; the bounds of a
 * page count as one. What another device read is not among them.
 */
export function tokensRead(
  { attention }: Decision,
  sums: AttentionSums | null,
  contextTokens: number,
  generatedTokens: number,
): number {
  if (!sums || sums.pages === 0) return contextTokens
  if (attention.place === 'partial') return generatedTokens
  const chosen = contextTokens * (sums.pagesRead / sums.pages)
  const isScoredHere = attention.method === 'page-bounds' && attention.place === 'local'
  return Math.ceil(chosen + (isScoredHere ? contextTokens / 16 : 0))
}
