/**
 * The thread that ONNX Runtime lives in: it holds the model, the KV pool and shards of postings, and
 * blocks while it computes.
 *
 * W1 What arrives while a step runs is served between its calls into ONNX Runtime, in the order in which
 *    it came (worker-queue.ts); cancels and answers of other devices take effect at once.
 * W2 Results are transferred, not copied.
 * W3 It ends by itself, between two calls into ONNX Runtime: ending a thread inside one aborts the process.
 */
import { type MessagePort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { InternalError, InvalidInputError } from '@kvasir/runtime/errors'
import { ShardStore } from './bm25/shard-store.js'
import type { StepSequence } from './device-driver.js'
import { runWorkerKernel } from './kernel-dispatch.js'
import { RemoteAsks } from './remote-asks.js'
import { Transformer } from './transformer.js'
import {
  buffersOf,
  type CallMessage,
  type FromWorker,
  plainError,
  type SentSequence,
  type SentStepResult,
  type ToWorker,
  type WorkerCall,
} from './worker-protocol.js'
import { WorkerQueue } from './worker-queue.js'

const port: MessagePort = workerData.port
const shards = new ShardStore()
const asks = new RemoteAsks((ask, sequence, query) => reply({ kind: 'ask', ask, sequence, query }))
const queue = new WorkerQueue<CallMessage>(begin)
let model: Transformer | undefined
let stepping = false
let cancelled = false
let closing = false

port.on('message', accept)

function accept(message: ToWorker): void {
  if (!('kind' in message)) {
    queue.push(message)
  } else if (message.kind === 'answer') {
    asks.answered(message.ask, message.answer)
  } else {
    cancelled = stepping
    if (cancelled) asks.cancel()
    closing ||= message.kind === 'close'
    endWhenIdle()
  }
}

function endWhenIdle(): void {
  if (closing && queue.isEmpty && !stepping) port.close()
}

/** What the queue waits for: all but a step. */
function begin({ id, call }: CallMessage): Promise<void> | undefined {
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
  return call.kind === 'step' ? undefined : served
}

function finish(id: number, value: unknown): void {
  reply({ kind: 'done', id, value }, buffersOf(value))
}

/** What can be done at once is done when it returns; the rest is a promise. */
function serve(call: WorkerCall): unknown {
  if (call.kind === 'load') return load(call)
  if (call.kind === 'kernel') return runWorkerKernel(call.kernel, { shards, memory: model?.kernels })
  if (model === undefined) throw new InternalError('The driver has no model yet; load one first.')
  const { slabs } = model
  switch (call.kind) {
    case 'step':
      return step(model, call.sequences)
    case 'read':
      slabs.check(call.layer, call.blocks)
      return slabs.readBlocks(call.layer, call.blocks)
    case 'write':
      slabs.check(call.layer, call.blocks)
      checkBytes(call, slabs.blockBytes)
      return slabs.writeBlocks(call.layer, call.blocks, call.data)
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
    case 'stats':
      return model.stats()
  }
}

async function load(call: Extract<WorkerCall, { kind: 'load' }>): Promise<unknown> {
  if (model !== undefined) throw new InternalError('The driver has loaded a model already.')
  model = await Transformer.load(call.options, call.threads, () => {
    drain()
    return closing
  })
  return model.facts
}

async function step(loaded: Transformer, sent: readonly SentSequence[]): Promise<SentStepResult> {
  if (stepping) throw new InternalError('The driver runs a step already; wait for it.')
  stepping = true
  cancelled = false
  try {
    const result = await loaded.step(sent.map(withAsk), {
      onLayer: (layer) => reply({ kind: 'layer', layer }),
      between: async () => {
        drain()
        await queue.caughtUp()
        return cancelled
      },
    })
    const failed = result.failed.map(({ sequence, error }) => ({ sequence, error: plainError(error) }))
    return { ...result, failed }
  } finally {
    stepping = false
    asks.cancel()
  }
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
