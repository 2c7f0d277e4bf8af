/**
 * `kvasir bench core`: how many requests a second the coordinator's core places, on one core of this machine.
 *
 * The core is driven by its own events, as the serving side drives it, in virtual time. A decision is a request
 * from `submit` to the `reserve` of its pair; every one goes on to its last token, and one that ends frees the
 * slot of the next, so that the cluster stays nearly full. The rate counts all the time spent in the core: the
 * requests' own events, and the load reports and ticks of the virtual time that passes meanwhile.
 */

import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { hashCount } from '@kvasir/coordinator/core/block-hashes'
import type { CompletionRecord } from '@kvasir/coordinator/core/completion-record'
import { CoordinatorCore, TICK_MS } from '@kvasir/coordinator/core/coordinator-core'
import type { Decision } from '@kvasir/coordinator/core/decision'
import type { DeviceFacts } from '@kvasir/coordinator/core/facts'
import type { CoordinatorAction, CoordinatorEvent } from '@kvasir/coordinator/core/protocol'
import { CancelledError, InternalError } from '@kvasir/runtime/errors'
import { say } from '../terminal.js'
import type { BenchResult } from './bench-result.js'
import {
  BenchText,
  BLOCK_TOKENS,
  benchDevice,
  benchLoad,
  linkBytesPerSecond,
  model,
} from './core-workload.js'
import { percentile, rounded } from './statistics.js'

export interface CoreOptions {
  readonly devices: number
  readonly blocks: number
  readonly promptTokens: number
  readonly decisions: number
}

const takenShare = 0.98
const maxTokens = 256
/** Virtual time between two requests: 5,000 a second. */
const decisionMs = 0.2
const reportMs = 500
const warmUpDecisions = 2_000
const matches = 5_000
const eventBlocks = 64
const events = 5_000
/** Events after which a block that was told of is removed again. */
const eventsKept = 50
const tokensAtOnce = 64
const turnsAtOnce = 256

export async function benchCore(options: CoreOptions, signal: AbortSignal): Promise<BenchResult> {
  const bench = new CoreBench(options, signal)
  const directoryBytes = bench.fillDirectory()
  say(`directory: ${options.blocks} blocks`)
  await bench.fillSlots()
  say(`${bench.running} requests run`)
  await bench.decide(warmUpDecisions)
  const { busyMs, decisionUs } = await bench.decide(options.decisions)
  say('decisions measured')
  const matchesPerS = bench.match(matches)
  const eventBlocksPerS = bench.tell(events)
  const figures = {
    decisionsPerS: Math.round((options.decisions / busyMs) * 1_000),
    p50Us: rounded(percentile(decisionUs, 50)),
    p99Us: rounded(percentile(decisionUs, 99)),
    matchesPerS: Math.round(matchesPerS),
    matchedBlocksPerS: Math.round(matchesPerS * bench.hitBlocks),
    eventBlocksPerS: Math.round(eventBlocksPerS),
    directoryBytes,
  }
  const row = {
    ...{ devices: options.devices, directoryBlocks: bench.core.directory.blocks },
    ...{ promptBlocks: bench.promptBlocks, hitShare: rounded(bench.hitBlocks / bench.promptBlocks) },
    ...{ decodeSlots: bench.slots, requestsRunning: bench.running, decisions: options.decisions },
  }
  return { figures, rows: [row] }
}

interface Running {
  readonly requestId: string
  readonly decision: Decision
}

class CoreBench {
  readonly core = new CoordinatorCore({
    protocolVersion: 1,
    protocolVersionMin: 1,
    queuedMax: 256,
    placementDeadlineMs: 10_000,
    requestDeadlineMs: 600_000,
    attentionDefault: 'auto',
  })
  readonly promptBlocks: number
  readonly slots: number
  readonly #options: CoreOptions
  readonly #signal: AbortSignal
  readonly #text = new BenchText(11)
  readonly #devices: DeviceFacts[]
  /** What runs on each device. */
  readonly #used = new Map<string, { slots: number; kvBytes: number }>()
  readonly #running: Running[] = []
  #reports = 0
  #requests = 0
  #nowMs = 0
  #tickedAtMs = 0
  #busyMs = 0
  #turns = 0

  constructor(options: CoreOptions, signal: AbortSignal) {
    this.#options = options
    this.#signal = signal
    this.promptBlocks = Math.floor(options.promptTokens / BLOCK_TOKENS)
    this.#devices = Array.from({ length: options.devices }, (_, index) => benchDevice(index))
    this.slots = this.#devices.reduce((sum, { decodeSlots }) => sum + decodeSlots, 0)
    for (const device of this.#devices) {
      this.#step({ type: 'advertised', device })
      const { deviceId, incarnation } = device
      this.#step({
        type: 'kv-snapshot',
        device: { deviceId, incarnation },
        snapshot: { sequence: 0, groups: [] },
      })
    }
    for (let index = 0; index < this.#devices.length; index++) this.#report()
  }

  get running(): number {
    return this.#running.length
  }

  /** Blocks of a prompt that are cached somewhere, on average. */
  get hitBlocks(): number {
    const { conversations } = this.#text
    return conversations.reduce((sum, hashes) => sum + hashCount(hashes), 0) / conversations.length
  }

  /** Returns the bytes that the directory takes. */
  fillDirectory(): number {
    const told = [...this.#text.stored(this.#devices, this.promptBlocks, this.#options.blocks)]
    const before = usedBytes()
    for (const event of told) this.#step(event)
    return usedBytes() - before
  }

  /** Requests begin until nearly all slots are taken. */
  async fillSlots(): Promise<void> {
    const target = Math.floor(this.slots * takenShare)
    while (this.#running.length < target) {
      await this.#pause()
      this.#pass()
      this.#begin()
    }
  }

  /** One request begins and one ends, so often. */
  async decide(count: number): Promise<{ readonly busyMs: number; readonly decisionUs: number[] }> {
    const decisionUs: number[] = []
    this.#busyMs = 0
    for (let index = 0; index < count; index++) {
      await this.#pause()
      this.#pass()
      decisionUs.push(this.#begin())
      this.#end()
    }
    return { busyMs: this.#busyMs, decisionUs }
  }

  /** Prompts a second that the directory is asked for. */
  match(count: number): number {
    const prompts = Array.from({ length: count }, () => this.#text.prompt(this.promptBlocks))
    const begin = performance.now()
    for (const prompt of prompts) this.core.directory.match(prompt, model.variant)
    return (count / (performance.now() - begin)) * 1_000
  }

  /** Blocks a second of which devices tell, in a directory that is full: each one is stored, and removed later. */
  tell(count: number): number {
    const [device] = this.#devices
    if (device === undefined) throw new InternalError('The bench has no device.')
    const told = Array.from({ length: count }, () => this.#text.fresh(eventBlocks))
    const begin = performance.now()
    told.forEach((stored, index) => {
      this.#step(this.#text.changed(device, stored, told[index - eventsKept]))
    })
    const blocks = (2 * count - eventsKept) * eventBlocks
    return (blocks / (performance.now() - begin)) * 1_000
  }

  /** Microseconds from `submit` to `reserve`. */
  #begin(): number {
    this.#requests += 1
    const requestId = `request-${this.#requests}`
    const blockHashes = this.#text.prompt(this.promptBlocks)
    const { promptTokens } = this.#options
    const begin = performance.now()
    const actions = this.#step({
      ...{ type: 'submit', requestId, modelDigest: model.digest, profile: model.profile },
      ...{ promptTokens, maxTokens, blockHashes },
    })
    const us = (performance.now() - begin) * 1_000
    const reserve = actions.find((action) => action.type === 'reserve')
    if (reserve === undefined) throw new InternalError(`${requestId} was not placed at once.`)
    const { decision } = reserve
    this.#use(decision, 1)
    this.#running.push({ requestId, decision })
    const ofEpoch = { requestId, epoch: decision.epoch }
    this.#step({ type: 'reserved', ...ofEpoch })
    this.#step({ type: 'prefill-admitted', ...ofEpoch })
    if (isMoved(decision)) {
      this.#step({ type: 'prefill-finished', ...ofEpoch, stopped: false })
      this.#step({ type: 'kv-sent', ...ofEpoch })
    }
    this.#step({ type: 'decode-started', ...ofEpoch })
    return us
  }

  /** A request that runs gets its tokens and ends. */
  #end(): void {
    const index = this.#text.below(this.#running.length)
    const ended = this.#running[index]
    const last = this.#running.pop()
    if (ended === undefined || last === undefined) return
    if (ended !== last) this.#running[index] = last
    const { requestId, decision } = ended
    const ofEpoch = { requestId, epoch: decision.epoch }
    for (let firstIndex = isMoved(decision) ? 1 : 0; firstIndex < maxTokens; firstIndex += tokensAtOnce) {
      const count = Math.min(tokensAtOnce, maxTokens - firstIndex)
      this.#step({ type: 'tokens', ...ofEpoch, firstIndex, count })
    }
    this.#step({ type: 'decode-finished', ...ofEpoch, reason: 'length' })
    this.#step({ type: 'completed', record: this.#recordOf(decision) })
    this.#use(decision, -1)
  }

  /** As if everything had taken somewhat less or more than predicted. */
  #recordOf({ prefill, decode, prefix, tpotMs }: Decision): CompletionRecord {
    const luck = 0.8 + this.#text.below(401) / 1_000
    const { computeTokens, computeMs } = prefix
    const { promptTokens } = this.#options
    const bytes = (promptTokens - prefix.heldByDecodeTokens) * model.kvBytesPerToken
    return {
      modelDigest: model.digest,
      profile: model.profile,
      prefill: {
        deviceId: prefill.deviceId,
        tokens: computeTokens,
        contextTokens: promptTokens - computeTokens,
        computeMs: computeMs * luck,
      },
      decode: {
        deviceId: decode.deviceId,
        steps: maxTokens - 1,
        stepsMs: (maxTokens - 1) * tpotMs * luck,
        batch: this.#usedOf(decode.deviceId).slots,
        contextTokens: promptTokens + maxTokens / 2,
      },
      ...(prefill.deviceId === decode.deviceId
        ? {}
        : {
            transfer: {
              fromDeviceId: prefill.deviceId,
              toDeviceId: decode.deviceId,
              bytes,
              busyMs: (bytes / linkBytesPerSecond / luck) * 1_000,
            },
          }),
    }
  }

  #use({ decode }: Decision, sign: 1 | -1): void {
    const used = this.#usedOf(decode.deviceId)
    used.slots += sign
    used.kvBytes += sign * (this.#options.promptTokens + maxTokens) * model.poolBytesPerToken
  }

  #usedOf(deviceId: string): { slots: number; kvBytes: number } {
    const used = this.#used.get(deviceId) ?? { slots: 0, kvBytes: 0 }
    this.#used.set(deviceId, used)
    return used
  }

  /** Time passes, in which devices report and the core ages what it knows. */
  #pass(): void {
    this.#nowMs += decisionMs
    const reported = Math.floor((this.#nowMs / reportMs) * this.#devices.length)
    while (this.#reports < reported) this.#report()
    if (this.#nowMs - this.#tickedAtMs >= TICK_MS) {
      this.#tickedAtMs = this.#nowMs
      this.#step({ type: 'tick' })
    }
  }

  #report(): void {
    const device = this.#devices[this.#reports % this.#devices.length]
    if (device === undefined) return
    this.#reports += 1
    const { slots, kvBytes } = this.#usedOf(device.deviceId)
    this.#step({ type: 'load', load: benchLoad(device, this.#reports, slots, kvBytes) })
  }

  #step(event: CoordinatorEvent): readonly CoordinatorAction[] {
    const begin = performance.now()
    const actions = this.core.step(event, this.#nowMs)
    this.#busyMs += performance.now() - begin
    const failed = actions.find((action) => action.type === 'fail' || action.type === 'abandon')
    if (failed) throw new InternalError(`The core gave a request up: ${JSON.stringify(failed)}`)
    return actions
  }

  /** Lets an interrupt come through now and then. */
  async #pause(): Promise<void> {
    this.#turns += 1
    if (this.#turns % turnsAtOnce === 0) await new Promise((resolve) => setImmediate(resolve))
    if (this.#signal.aborted) throw new CancelledError('The bench was interrupted.')
  }
}

function isMoved({ prefill, decode }: Decision): boolean {
  return prefill.deviceId !== decode.deviceId
}

/** Of the heap and of arrays beside it, after a collection. */
function usedBytes(): number {
  setFlagsFromString('--expose-gc')
  const collect: unknown = runInNewContext('gc')
  if (typeof collect === 'function') collect()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}
