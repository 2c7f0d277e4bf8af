/**
 * The thread that ONNX Runtime lives in: it holds models with their KV pools and shards of postings, and
 * blocks while it computes.
 *
 * W1 What arrives while a step runs is served between its calls into ONNX Runtime, in the order in which
 *    it came (worker-queue.ts); cancels and answers of other devices take effect at once.
 * W2 Results are transferred, not copied.
 * W3 One step runs at a time; those of other models wait for their turn in the order in which they came. A model
 *    that is loaded takes its turn layer by layer, so that a step waits for one layer at most.
 * W4 It ends by itself, between two calls into ONNX Runtime: ending a thread inside one aborts the process.
 */
import { type MessagePort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { InvalidInputError, NotFoundError } from '@kvasir/runtime/errors'
import { ShardStore } from './bm25/shard-store.js'
import { collectGarbage } from './collect-garbage.js'
import type { StepSequence } from './device-driver.js'
import { runAttentionKernel, runSearchKernel } from './kernel-dispatch.js'
import { inspectModel } from './model-plan.js'
import { RemoteAsks } from './remote-asks.js'
import { Transformer } from './transformer.js'
import { Turns } from './turns.js'
import {
  buffersOf,
  type CallMessage,
  type FromWorker,
  type LoadedInWorker,
  type ModelCall,
  plainError,
  type SentSequence,
  type SentStepResult,
  type ToWorker,
  type WorkerCall,
} from './worker-protocol.js'
import { WorkerQueue } from './worker-queue.js'

const port: MessagePort = workerData.port
const shards = new ShardStore()
const models = new Map<number, Transformer>()
const asks = new RemoteAsks((ask, sequence, query) => {
  if (stepping !== undefined) reply({ kind: 'ask', id: stepping.id, ask, sequence, query })
})
const queue = new WorkerQueue<CallMessage>(begin)
const turns = new Turns()
const steps: PendingStep[] = []
let stepping: PendingStep | undefined
let lastModel = 0
/** Models that are being looked into, loaded or unloaded. */
let changing = 0
let closing = false

interface PendingStep {
  readonly id: number
  readonly model: number
  readonly sequences: readonly SentSequence[]
  cancelled: boolean
  whenEnded?: () => void
}

port.on('message', accept)

function accept(message: ToWorker): void {
  if (!('kind' in message)) {
    queue.push(message)
  } else if (message.kind === 'answer') {
    asks.answered(message.ask, message.answer)
  } else {
    if (message.kind === 'close') {
      closing = true
      steps.length = 0
      if (stepping !== undefined) cancel(stepping)
    } else {
      const step = [stepping, ...steps].find((known) => known?.id === message.id)
      if (step !== undefined) cancel(step)
    }
    endWhenIdle()
  }
}

function cancel(step: PendingStep): void {
  step.cancelled = true
  if (step === stepping) asks.cancel()
}

function endWhenIdle(): void {
  if (closing && queue.isEmpty && stepping === undefined && changing === 0) port.close()
}

/** What the queue waits for: all but steps, and models that come or go, which no later call is about. */
function begin({ id, call }: CallMessage): Promise<void> | undefined {
  if (call.kind === 'step') {
    steps.push({ id, model: call.model, sequences: call.sequences, cancelled: false })
    if (stepping === undefined) void runSteps()
    return undefined
  }
  let value: unknown
  try {
    value = serve(call)
  } catch (error) {
    reply({ kind: 'failed', id, error: plainError(error) })
    return undefined
  }
  if (!(value instanceof Promise)) {
    finish(id, value)
    return undefined
  }
  const served = value
    .then(
      (result) => finish(id, result),
      (error: unknown) => reply({ kind: 'failed', id, error: plainError(error) }),
    )
    // The queue counts this call as served a moment later.
    .finally(() => setImmediate(endWhenIdle))
  if (call.kind !== 'load' && call.kind !== 'inspect' && call.kind !== 'unload') return served
  changing += 1
  void served.finally(() => {
    changing -= 1
  })
  return undefined
}

function finish(id: number, value: unknown): void {
  reply({ kind: 'done', id, value }, buffersOf(value))
}

/** What can be done at once is done when it returns; the rest is a promise. */
function serve(call: Exclude<WorkerCall, { kind: 'step' }>): unknown {
  switch (call.kind) {
    case 'inspect':
      return inspectModel(call.options)
    case 'load':
      return load(call)
    case 'search':
      return runSearchKernel(call.kernel, shards)
    case 'unload':
      return unload(call.model)
    default:
      return serveModel(loaded(call.model), call)
  }
}

function serveModel(
  { slabs, kernels, stats }: Transformer,
  call: Exclude<ModelCall, { kind: 'step' | 'unload' }>,
): unknown {
  switch (call.kind) {
    case 'read':
      slabs.check(call.layer, call.blocks)
      return slabs.readBlocks(call.layer, call.blocks, call.room)
    case 'write':
      slabs.check(call.layer, call.blocks)
      checkBytes(call, slabs.blockBytes)
      slabs.writeBlocks(call.layer, call.blocks, call.data)
      // Back to where it may be used again.
      return call.data
    case 'copy':
      slabs.checkBlocks(call.from)
      slabs.checkBlocks(call.to)
      if (call.from.length !== call.to.length) {
        throw new InvalidInputError(`${call.from.length} blocks cannot be copied to ${call.to.length}.`)
      }
      return slabs.copyBlocks(call.from, call.to)
    case 'read-bounds':
      slabs.check(call.layer, call.blocks)
      return new Uint8Array(slabs.readBounds(call.layer, call.blocks).buffer)
    case 'write-bounds':
      slabs.check(call.layer, call.blocks)
      checkBytes(call, slabs.bounds.blockBytes)
      return slabs.bounds.write(call.layer, call.blocks, call.data)
    case 'kernel':
      return runAttentionKernel(call.kernel, kernels)
    case 'stats':
      return stats()
  }
}

function loaded(model: number): Transformer {
  const found = models.get(model)
  if (found === undefined) throw new NotFoundError('The model has been unloaded; load it again.')
  return found
}

async function load(call: Extract<WorkerCall, { kind: 'load' }>): Promise<LoadedInWorker> {
  let passOn: (() => void) | undefined
  try {
    const model = await Transformer.load(call.options, call.compute, async () => {
      passOn?.()
      passOn = await turns.take()
      drain()
      return closing
    })
    return keep(model)
  } finally {
    // The buffers that its weights went through, and all that a load that failed had made.
    collectGarbage()
    passOn?.()
  }
}

function keep(model: Transformer): LoadedInWorker {
  lastModel += 1
  models.set(lastModel, model)
  return { model: lastModel, facts: model.facts }
}

/** A step of it that runs is cancelled and ends before what it uses is freed. */
async function unload(id: number): Promise<void> {
  await release(id)
  collectGarbage()
}

async function release(id: number): Promise<void> {
  const model = loaded(id)
  models.delete(id)
  for (const step of [stepping, ...steps]) if (step?.model === id) cancel(step)
  const running = stepping
  if (running?.model === id) {
    await new Promise<void>((resolve) => {
      running.whenEnded = resolve
    })
  }
  await model.release()
}

/** One after the other, whichever model they are of. */
async function runSteps(): Promise<void> {
  for (stepping = steps.shift(); stepping !== undefined; stepping = steps.shift()) {
    const { id } = stepping
    const passOn = await turns.take()
    try {
      finish(id, await step(loaded(stepping.model), stepping))
    } catch (error) {
      reply({ kind: 'failed', id, error: plainError(error) })
    }
    passOn()
    asks.cancel()
    stepping.whenEnded?.()
  }
  setImmediate(endWhenIdle)
}

async function step(model: Transformer, running: PendingStep): Promise<SentStepResult> {
  const result = await model.step(running.sequences.map(withAsk), {
    onLayer: (layer) => reply({ kind: 'layer', id: running.id, layer }),
    between: async () => {
      drain()
      await queue.caughtUp()
      return running.cancelled
    },
  })
  const failed = result.failed.map(({ sequence, error }) => ({ sequence, error: plainError(error) }))
  return { ...result, failed }
}

function withAsk({ remote, ...sequence }: SentSequence, index: number): StepSequence {
  if (remote === undefined) return sequence
  return { ...sequence, remote: { ...remote, ask: (query) => asks.ask(index, query) } }
}

function checkBytes({ blocks, data }: { blocks: Uint32Array; data: Uint8Array }, blockBytes: number): void {
  const bytes = blocks.length * blockBytes
  if (data.byteLength === bytes) return
  throw new InvalidInputError(`${blocks.length} blocks are ${bytes} bytes, not ${data.byteLength}.`)
}

/** Takes what has arrived since the event loop last looked. */
function drain(): void {
  for (let next = receiveMessageOnPort(port); next !== undefined; next = receiveMessageOnPort(port)) {
    accept(next.message)
  }
}

function reply(message: FromWorker, transfer: ArrayBuffer[] = []): void {
  port.postMessage(message, transfer)
}
