/**
 * `kvasir bench relevancy`: the round trip of one layer's attention to another device.
 *
 * This process plays the device that decodes: it holds 32k tokens of random keys and values of one
 * layer, which an FPGA agent of a local cluster takes over the way it does for a request, and then asks
 * it one query at a time. Beside it: the same choice and attention by the driver in this process, which
 * is what the trip adds to.
 */
import type { Device } from '@kvasir/agent/device'
import { runReader, shapeOf } from '@kvasir/agent/kv-shape'
import { OutgoingTransfer } from '@kvasir/agent/outgoing-transfer'
import { RemoteAttentionCall } from '@kvasir/agent/remote-attention'
import type { ServedModel } from '@kvasir/agent/served-model'
import type { ClusterReport } from '@kvasir/coordinator/generation'
import { BLOCK_TOKENS, type RemoteAnswer } from '@kvasir/engine/device-driver'
import { Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import { KvServiceClient, LeasePurpose } from '@kvasir/proto/kvasir/kv/v1/kv'
import { AttendMode } from '@kvasir/proto/kvasir/memory/v1/memory'
import { withDeadline } from '@kvasir/runtime/deferred'
import { CancelledError, InternalError } from '@kvasir/runtime/errors'
import { callUnary, createRpcClient } from '@kvasir/runtime/rpc-client'
import { callJson } from '../client/api-client.js'
import { say } from '../terminal.js'
import { withBenchCluster } from './bench-cluster.js'
import { withBenchDevice } from './bench-device.js'
import type { BenchResult } from './bench-result.js'
import { median, percentile, rounded } from './statistics.js'

export interface RelevancyOptions {
  readonly tokens: number
  /** Share of the pages that each KV head attends to. */
  readonly budgetPercent: number
  readonly queries: number
}

/** One layer of the shape of llama-0.5b, with a context that is long enough. */
const model = 'dummy:llama-0.5b-layer'
const attendingDevice = 'fpga-0'
const layer = 0
const warmUpQueries = 100
const attendMsMax = 10_000
const readyMsMax = 60_000
const reserveMsMax = 5_000
/** Pages written at once. */
const fillPages = 256

interface Way {
  readonly name: string
  readonly mode: AttendMode.PARTIAL | AttendMode.INDICES
  /** Pages to choose; 0 for all. */
  readonly pages: number
}

interface Measured {
  readonly us: number[]
  readonly relevancyUs: number[]
  readonly retrievalUs: number[]
  readonly applyUs: number[]
  wireBytes: number
  /** What moving the chosen pages would take. */
  movedBytes: number
}

export async function benchRelevancy(options: RelevancyOptions, signal: AbortSignal): Promise<BenchResult> {
  const pages = Math.floor(options.tokens / BLOCK_TOKENS)
  const chosen = Math.max(1, Math.ceil((pages * options.budgetPercent) / 100))
  const ways: readonly Way[] = [
    { name: 'partial', mode: AttendMode.PARTIAL, pages: chosen },
    { name: 'indices', mode: AttendMode.INDICES, pages: chosen },
    { name: 'dense', mode: AttendMode.PARTIAL, pages: 0 },
  ]
  return withBenchCluster({ model, fpgas: 1 }, signal, async ({ url }) =>
    withBenchDevice(model, pages, async ({ device, served }) => {
      await fill(served, pages)
      const { devices } = await callJson<ClusterReport>(url, '/v1/cluster')
      const control = devices.find(({ deviceId }) => deviceId === attendingDevice)?.endpoints.control
      if (control === undefined) throw new InternalError(`The cluster has no device ${attendingDevice}.`)
      const all = new Map<string, Measured>()
      for (const way of ways) {
        const call = await open(device, served, control, way, pages)
        try {
          const ask = (q: Float32Array) =>
            call.ask({ layer, q, pages: way.pages, rivals: new Float32Array() })
          all.set(way.name, await measure(options.queries, served, way, ask, signal))
        } finally {
          call.close()
        }
        say(`${way.name}: ${options.queries} queries measured`)
      }
      const here = (q: Float32Array) => askHere(served, q, pages, chosen)
      const [partial] = ways
      if (partial !== undefined)
        all.set('here', await measure(options.queries, served, partial, here, signal))
      return resultOf(all, pages, chosen)
    }),
  )
}

function resultOf(all: ReadonlyMap<string, Measured>, pages: number, chosen: number): BenchResult {
  const figures: Record<string, number> = {}
  const rows: BenchResult['rows'][number][] = []
  for (const [name, measured] of all) {
    const row = {
      way: name,
      pages,
      chosenPages: name === 'dense' ? pages : chosen,
      p50Us: rounded(percentile(measured.us, 50)),
      p99Us: rounded(percentile(measured.us, 99)),
      relevancyUs: rounded(median(measured.relevancyUs)),
      retrievalUs: rounded(median(measured.retrievalUs)),
      applyUs: rounded(median(measured.applyUs)),
      wireBytes: Math.round(measured.wireBytes / measured.us.length),
      movedBytes: Math.round(measured.movedBytes / measured.us.length),
    }
    rows.push(row)
    // The offloaded attention that the figures without a name are about.
    const suffix = name === 'partial' ? '' : `${name[0]?.toUpperCase()}${name.slice(1)}`
    figures[`p50Us${suffix}`] = row.p50Us
    figures[`p99Us${suffix}`] = row.p99Us
    if (name !== 'here') figures[`bytesRatio${suffix}`] = rounded(measured.wireBytes / measured.movedBytes)
  }
  return { figures, rows }
}

async function measure(
  queries: number,
  { model: { kvHeads, headDim, heads, blockLayerBytes } }: ServedModel,
  way: Way,
  ask: (q: Float32Array) => Promise<RemoteAnswer>,
  signal: AbortSignal,
): Promise<Measured> {
  const measured: Measured = {
    us: [],
    relevancyUs: [],
    retrievalUs: [],
    applyUs: [],
    wireBytes: 0,
    movedBytes: 0,
  }
  const random = randomFloats(17)
  for (let query = -warmUpQueries; query < queries; query++) {
    if (signal.aborted) throw new CancelledError('The bench was interrupted.')
    const q = Float32Array.from({ length: heads * headDim }, random)
    const begin = performance.now()
    const answer = await ask(q)
    const us = (performance.now() - begin) * 1_000
    if (query < 0) continue
    measured.us.push(us)
    measured.relevancyUs.push(answer.relevancyUs)
    measured.retrievalUs.push(answer.retrievalUs)
    measured.applyUs.push(answer.applyUs)
    measured.wireBytes += answer.wireBytes
    const headPages = answer.chosen.reduce((sum, count) => sum + count, 0)
    if (way.pages > 0 && headPages !== way.pages * kvHeads)
      throw new InternalError('An answer chose too few pages.')
    measured.movedBytes += headPages * (blockLayerBytes / kvHeads)
  }
  return measured
}

/** The same work by this process's own driver. */
async function askHere(
  { driver }: ServedModel,
  q: Float32Array,
  pages: number,
  chosen: number,
): Promise<RemoteAnswer> {
  const blocks = Uint32Array.from({ length: pages }, (_, page) => page)
  const answer = await driver.runKernel('choose-pages', {
    ...{ layer, q, blocks, pages: chosen, rivals: new Float32Array(), attend: true },
  })
  const { relevancyUs, retrievalUs, applyUs } = answer
  return {
    chosen: Uint32Array.from(answer.chosen, (list) => list.length),
    relevancyUs,
    retrievalUs,
    applyUs,
    wireBytes: 0,
  }
}

/** Reserves memory on the attending device and has it take the pages, as a decoding device does. */
async function open(
  device: Device,
  served: ServedModel,
  control: string,
  way: Way,
  pages: number,
): Promise<RemoteAttentionCall> {
  const requestId = `bench-${way.name}`
  const tokens = pages * BLOCK_TOKENS
  const client = createRpcClient(KvServiceClient, control)
  const { lease } = await callUnary(
    client,
    'reserve',
    {
      requestId,
      epoch: 1,
      modelDigest: served.model.digest,
      profile: Profile.EXACT,
      tokens,
      purpose: LeasePurpose.ATTEND,
    },
    { timeoutMs: reserveMsMax },
  )
  client.close()
  const blocks = Array.from({ length: pages }, (_, page) => page)
  const transfer = new OutgoingTransfer({
    transferId: requestId,
    shape: shapeOf(served),
    tokens,
    pacer: device.pacer,
    mergeLayers: device.mergeLayers,
    clock: device.clock,
    acknowledgeMs: device.limits.acknowledgeMs,
    opened() {},
    pin: () => runReader(served, blocks, tokens),
    unpin() {},
  })
  device.transfers.offer(transfer)
  transfer.admitted()
  transfer.present(tokens)
  transfer.prefillEnded(0)
  const call = new RemoteAttentionCall({
    client: device.attendClient(control),
    deviceId: attendingDevice,
    model: served.model,
    attendMs: attendMsMax,
    open: {
      lease,
      requestId,
      epoch: 1,
      modelDigest: served.model.digest,
      mode: way.mode,
      pages,
      sourceEndpoint: device.kvEndpoint(),
      sourceDeviceId: device.deviceId,
      transferId: transfer.id,
    },
  })
  await withDeadline(
    Promise.all([call.ready, transfer.done.promise]),
    readyMsMax,
    'the pages to be taken over',
  )
  device.transfers.withdraw(transfer)
  return call
}

/** Random keys and values in the first `pages` blocks, which nobody else uses. */
async function fill({ driver, model: { blockLayerBytes } }: ServedModel, pages: number): Promise<void> {
  const random = randomFloats(5)
  for (let first = 0; first < pages; first += fillPages) {
    const count = Math.min(fillPages, pages - first)
    const values = Float32Array.from(
      { length: (count * blockLayerBytes) / Float32Array.BYTES_PER_ELEMENT },
      random,
    )
    const blocks = Uint32Array.from({ length: count }, (_, index) => first + index)
    await driver.writeBlocks(layer, blocks, new Uint8Array(values.buffer))
  }
}

/** From −1 to 1, the same in every run. */
function randomFloats(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 0x8000_0000 - 1
  }
}
