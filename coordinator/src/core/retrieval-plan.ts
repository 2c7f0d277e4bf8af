/**
 * Plans one retrieval over a sharded corpus: which device searches which shard, and the four stages
 * with their predicted times (prepare: from the query to terms; relevancy: BM25; retrieval: top-k, in
 * one call with it; apply: the documents in the prompt).
 *
 * Shards are searched side by side and those of one device one after the other, so that the slowest
 * device counts. The assignment is the fastest there is, for up to VISITS_MAX partial assignments looked
 * at; beyond that the best one found.
 */

import type { DeviceFacts } from './facts.js'
import { type LinkedDevice, linkMs } from './roofline.js'
import type { StageCosts } from './stage-costs.js'
import { type PlannedStage, planStages, type Stage, type StageOption } from './stage-plan.js'

export type RetrievalDevice = Pick<DeviceFacts, 'deviceId' | 'tiers' | 'compute' | 'link'>

export interface RetrievalShard {
  /** The caller's number of it. */
  readonly shard: number
  /** Documents in it. */
  readonly documents: number
  /** Bytes of its postings of the query's terms, which scoring reads. */
  readonly postingsBytes: number
  /** Devices that can search it, in order of preference; at least one. */
  readonly candidates: readonly {
    readonly device: RetrievalDevice
    /** What must be brought there from the owner first; 0 where it holds the shard. */
    readonly loadBytes: number
  }[]
}

export interface RetrievalPlanInput {
  /** Bytes of the query's text. */
  readonly queryBytes: number
  /** Weighted terms that it becomes. */
  readonly terms: number
  /** Documents wanted. */
  readonly k: number
  /** The device that holds the documents and prepares queries. */
  readonly owner: RetrievalDevice
  /** At least one. */
  readonly shards: readonly RetrievalShard[]
  /** What becomes of the documents; null for a search on its own, which has no such stage. */
  readonly apply: {
    readonly what: string
    /** Devices that could, such as those that prefill, with the time of it. */
    readonly options: readonly (StageOption & { readonly device: LinkedDevice })[]
    /** Bytes of the documents' texts, which lie with the owner. */
    readonly documentsBytes: number
  } | null
}

export interface RetrievalPlan {
  /** Prepare, relevancy, retrieval and, where asked for, apply. */
  readonly stages: readonly PlannedStage[]
  /** By shard: the device that searches it. */
  readonly shardDevices: ReadonlyMap<number, string>
  readonly totalMs: number
}

/** Kernels whose measured times StageCosts.observe takes, with the work of `retrievalWork`. */
export const RETRIEVAL_KERNELS = { relevancy: 'bm25-score', retrieval: 'bm25-top-k' } as const

/** A term's number and weight; a document's number and score. */
const TERM_BYTES = 12
const SCORED_BYTES = 12
/** A posting is a document and a count; its score takes about as many operations as it has bytes. */
const OPERATIONS_PER_POSTING_BYTE = 1
const SCORE_BYTES = 8
const OPERATIONS_PER_SCORE = 2
/** Splitting a query into words, for each byte. */
const OPERATIONS_PER_QUERY_BYTE = 20
const VISITS_MAX = 20_000

/** The work of the two stages over one shard. */
export function retrievalWork(shard: Pick<RetrievalShard, 'documents' | 'postingsBytes'>) {
  return {
    relevancy: {
      operations: shard.postingsBytes * OPERATIONS_PER_POSTING_BYTE,
      readBytes: shard.postingsBytes,
    },
    retrieval: {
      operations: shard.documents * OPERATIONS_PER_SCORE,
      readBytes: shard.documents * SCORE_BYTES,
    },
  }
}

/** Throws RangeError where a shard has no candidate. */
export function planRetrieval(input: RetrievalPlanInput, costs: StageCosts): RetrievalPlan {
  const { owner, shards, k } = input
  const devices = new Map<string, LinkedDevice>([[owner.deviceId, owner]])
  for (const { candidates } of shards)
    for (const { device } of candidates) devices.set(device.deviceId, device)
  for (const { device } of input.apply?.options ?? []) devices.set(device.deviceId, device)

  const assignments = assignmentsOf(input, costs)
  const termsBytes = input.terms * TERM_BYTES
  const over = shards.length === 1 ? '' : ` over ${shards.length} shards`
  const stages: Stage[] = [
    {
      name: 'prepare',
      what: "the query's words and their weights",
      options: [
        {
          devices: [owner.deviceId],
          computeMs: costs.stageMs(owner, 'bm25-prepare', {
            operations: input.queryBytes * OPERATIONS_PER_QUERY_BYTE,
            readBytes: input.queryBytes,
          }),
        },
      ],
      inputs: [],
      outputBytes: termsBytes,
    },
    {
      name: 'relevancy',
      what: `BM25${over}`,
      options: assignments.map(({ devices, relevancyMs }) => ({ devices, computeMs: relevancyMs })),
      inputs: [],
      outputBytes: shards.reduce((sum, { documents }) => sum + documents * SCORE_BYTES, 0),
    },
    {
      name: 'retrieval',
      what: `the best ${k}${over}`,
      options: assignments.map(({ devices, retrievalMs }) => ({ devices, computeMs: retrievalMs })),
      inputs: [],
      outputBytes: k * SCORED_BYTES,
      isJoined: true,
    },
  ]
  if (input.apply && input.apply.options.length > 0) {
    stages.push({
      name: 'apply',
      what: input.apply.what,
      options: input.apply.options,
      inputs: [{ device: owner.deviceId, bytes: input.apply.documentsBytes }],
      outputBytes: 0,
    })
  }
  const plan = planStages({
    stages,
    resultAt: null,
    transferMs: (from, to, bytes) => {
      const [source, target] = [devices.get(from), devices.get(to)]
      return source && target ? linkMs(source, target, bytes) : 0
    },
  })
  const relevancy = plan.stages[1]
  const chosen = assignments.find(({ devices }) => devices === relevancy?.devices)
  return { stages: plan.stages, shardDevices: chosen?.of ?? new Map(), totalMs: plan.totalMs }
}

interface Assignment {
  readonly of: ReadonlyMap<number, string>
  readonly devices: readonly string[]
  /** Of the slowest device, which for relevancy first loads what it lacks. */
  readonly relevancyMs: number
  readonly retrievalMs: number
}

/** The fastest assignment, then those that leave everything to one device, each different from it. */
function assignmentsOf(input: RetrievalPlanInput, costs: StageCosts): readonly Assignment[] {
  const choices = input.shards.map((shard) => {
    if (shard.candidates.length === 0) throw new RangeError(`No device can search shard ${shard.shard}.`)
    const work = retrievalWork(shard)
    return shard.candidates.map(({ device, loadBytes }) => {
      const loadMs = loadBytes > 0 ? linkMs(input.owner, device, loadBytes) : 0
      const relevancyMs = loadMs + costs.stageMs(device, RETRIEVAL_KERNELS.relevancy, work.relevancy)
      const retrievalMs = costs.stageMs(device, RETRIEVAL_KERNELS.retrieval, work.retrieval)
      return { deviceId: device.deviceId, relevancyMs, retrievalMs, ms: relevancyMs + retrievalMs }
    })
  })
  type Choice = (typeof choices)[number][number]

  const assign = (picked: readonly Choice[]): Assignment => {
    const slowest = (of: (choice: Choice) => number): number => {
      return Math.max(...busyMs(picked, of).values())
    }
    return {
      of: new Map(input.shards.map(({ shard }, at) => [shard, picked[at]?.deviceId ?? ''])),
      devices: [...new Set(picked.map(({ deviceId }) => deviceId))],
      relevancyMs: slowest((choice) => choice.relevancyMs),
      retrievalMs: slowest((choice) => choice.retrievalMs),
    }
  }
  const found = [assign(fastest(choices))]
  const alone = new Set(choices.flatMap((ofShard) => ofShard.map(({ deviceId }) => deviceId)))
  for (const deviceId of alone) {
    const picked = choices.flatMap((ofShard) => ofShard.find((choice) => choice.deviceId === deviceId) ?? [])
    const isOther = found[0]?.devices.length !== 1 || found[0].devices[0] !== deviceId
    if (picked.length === choices.length && isOther) found.push(assign(picked))
  }
  return found
}

/** Branch and bound over the shards: of each the candidate, so that the busiest device is done first. */
function fastest<Choice extends { readonly deviceId: string; readonly ms: number }>(
  choices: readonly (readonly Choice[])[],
): readonly Choice[] {
  let best: readonly Choice[] = []
  let bestMs = Number.POSITIVE_INFINITY
  let visits = 0
  const visit = (picked: readonly Choice[], busy: ReadonlyMap<string, number>, longestMs: number): void => {
    visits += 1
    const open = choices[picked.length]
    if (!open) {
      best = picked
      bestMs = longestMs
      return
    }
    const next = open.map((choice) => ({ choice, doneMs: (busy.get(choice.deviceId) ?? 0) + choice.ms }))
    // The one that is done first leads to a good assignment at once, which the others are held against.
    for (const { choice, doneMs } of next.toSorted((a, b) => a.doneMs - b.doneMs)) {
      const ms = Math.max(longestMs, doneMs)
      if (ms >= bestMs || (visits > VISITS_MAX && best.length > 0)) continue
      visit([...picked, choice], new Map(busy).set(choice.deviceId, doneMs), ms)
    }
  }
  visit([], new Map(), 0)
  return best
}

function busyMs<Choice extends { readonly deviceId: string }>(
  picked: readonly Choice[],
  of: (choice: Choice) => number,
): Map<string, number> {
  const busy = new Map<string, number>()
  for (const choice of picked) {
    busy.set(choice.deviceId, (busy.get(choice.deviceId) ?? 0) + of(choice))
  }
  return busy
}
