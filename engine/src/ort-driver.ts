/**
 * The device driver on ONNX Runtime's CPU provider: one worker thread that computes, so that the
 * caller's thread is never blocked.
 *
 * O1 Every call settles: when the thread ends, for whatever reason, pending and later calls reject.
 * O2 The thread is asked to end and ends between two calls into ONNX Runtime; only one that does not
 *    within CLOSE_MS is ended by force, which may abort the process.
 * O3 `data` given to `writeBlocks` or `writeBounds`, and a shard given to bm25-load, is transferred when
 *    it is the whole of its buffer or its caller says that the buffer is the driver's, else copied.
 */
import { MessageChannel, Worker } from 'node:worker_threads'
import { deferred, withDeadline } from '@kvasir/runtime/deferred'
import { CancelledError, InternalError, KvasirError, messageOf } from '@kvasir/runtime/errors'
import type {
  DeviceDriver,
  DriverStats,
  LoadedModelFacts,
  RemoteQuery,
  StepSequence,
} from './device-driver.js'
import { KERNEL_DESCRIPTIONS } from './kernel-limits.js'
import type { KernelInput, KernelName, KernelOutput } from './kernels.js'
import { STEP_ROWS_MAX } from './limits.js'
import {
  buffersOf,
  compact,
  type FromWorker,
  type KernelCall,
  plainError,
  revivedError,
  type SentSequence,
  type SentStepResult,
  type ToWorker,
  type WorkerCall,
} from './worker-protocol.js'

export interface OrtDriverOptions {
  /** Threads of one call into ONNX Runtime; by default one for a small model, else all cores, at most 16. */
  readonly threads?: number
}

/** Longer than one call into ONNX Runtime takes: a layer of a large model over a long chunk. */
const CLOSE_MS = 10_000

interface Pending {
  readonly resolve: (value: unknown) => void
  readonly reject: (error: KvasirError) => void
}

export function createOrtDriver(options: OrtDriverOptions = {}): DeviceDriver {
  const { port1: port, port2 } = new MessageChannel()
  // The same file from src/ and from dist/. Flags of this process, such as a test runner's, stay here.
  const worker = new Worker(new URL('../dist/ort-worker.js', import.meta.url), {
    workerData: { port: port2 },
    transferList: [port2],
    execArgv: [],
    name: 'onnxruntime',
  })
  const pending = new Map<number, Pending>()
  let lastId = 0
  let ended: KvasirError | undefined
  const lost = deferred<KvasirError>()
  const exited = deferred<void>()
  let stepId: number | undefined
  let onLayer: ((layer: number) => void) | undefined
  let stepping: readonly StepSequence[] = []
  /** Of the running step, by sequence: the error as its owner gave it, which the thread knows as data only. */
  const remoteErrors = new Map<number, KvasirError>()

  const end = (error: KvasirError) => {
    ended ??= error
    for (const call of pending.values()) call.reject(ended)
    pending.clear()
  }
  const lose = (error: KvasirError) => {
    if (ended !== undefined) return
    end(error)
    port.close()
    lost.resolve(error)
  }
  worker.on('error', (error) => {
    lose(new InternalError(`The engine's thread failed: ${messageOf(error)}`, { cause: error }))
  })
  worker.on('exit', (code) => {
    exited.resolve()
    lose(new InternalError(`The engine's thread ended with code ${code}.`))
  })
  port.on('message', (message: FromWorker) => {
    if (message.kind === 'layer') return onLayer?.(message.layer)
    if (message.kind === 'ask') return void answer(message.ask, message.sequence, message.query)
    const call = pending.get(message.id)
    pending.delete(message.id)
    if (message.kind === 'done') call?.resolve(message.value)
    else call?.reject(revivedError(message.error))
  })

  function send(message: ToWorker, transfer: ArrayBuffer[] = []): void {
    port.postMessage(message, transfer)
  }

  // Only the worker knows the results' types; both sides are of one version and one package.
  function ask<T>(call: WorkerCall, transfer: ArrayBuffer[] = []): Promise<T> {
    if (ended !== undefined) return Promise.reject(ended)
    const id = ++lastId
    if (call.kind === 'step') stepId = id
    return new Promise<T>((resolve, reject) => {
      pending.set(id, { resolve: (value) => resolve(value as T), reject })
      send({ id, call }, transfer)
    })
  }

  /** Asks the other device in the thread's place. */
  async function answer(id: number, sequence: number, query: RemoteQuery): Promise<void> {
    const remote = stepping[sequence]?.remote
    let reply: ToWorker
    try {
      if (remote === undefined) throw new InternalError(`Sequence ${sequence} has no other device to ask.`)
      reply = { kind: 'answer', ask: id, answer: compact(await remote.ask(query)) }
    } catch (thrown) {
      const error = KvasirError.from(thrown)
      if (remote !== undefined && stepping[sequence]?.remote === remote) remoteErrors.set(sequence, error)
      reply = { kind: 'answer', ask: id, answer: plainError(error) }
    }
    if (ended === undefined) send(reply)
  }

  function put(
    kind: 'write' | 'write-bounds',
    layer: number,
    blocks: Uint32Array,
    data: Uint8Array,
    owned = false,
  ): Promise<void> {
    const own = owned ? data : compact(data)
    return ask<void>({ kind, layer, blocks: compact(blocks), data: own }, buffersOf(own))
  }

  return {
    lost: lost.promise,
    describe: () => ({
      name: 'onnxruntime-cpu',
      kernels: [{ name: 'llama-f32', version: 1, limits: { rows: STEP_ROWS_MAX } }, ...KERNEL_DESCRIPTIONS],
      rowsMax: STEP_ROWS_MAX,
    }),
    loadModel: (load) => ask<LoadedModelFacts>({ kind: 'load', options: load, threads: options.threads }),
    async step(sequences, layerDone) {
      if (stepId !== undefined) throw new InternalError('The driver runs a step already; wait for it.')
      onLayer = layerDone
      stepping = sequences
      try {
        const { failed, ...result } = await ask<SentStepResult>({
          kind: 'step',
          sequences: compact(sequences.map(withoutAsk)),
        })
        return {
          ...result,
          failed: failed.map(({ sequence, error }) => ({
            sequence,
            error: remoteErrors.get(sequence) ?? revivedError(error),
          })),
        }
      } finally {
        stepId = undefined
        onLayer = undefined
        stepping = []
        remoteErrors.clear()
      }
    },
    cancelStep() {
      if (stepId !== undefined && ended === undefined) send({ kind: 'cancel' })
    },
    readBlocks: (layer, blocks) => ask<Uint8Array>({ kind: 'read', layer, blocks: compact(blocks) }),
    writeBlocks: (layer, blocks, data, owned) => put('write', layer, blocks, data, owned),
    copyBlocks: (from, to) => ask<void>({ kind: 'copy', from: compact(from), to: compact(to) }),
    readBounds: (layer, blocks) => ask<Uint8Array>({ kind: 'read-bounds', layer, blocks: compact(blocks) }),
    writeBounds: (layer, blocks, data) => put('write-bounds', layer, blocks, data),
    runKernel<Name extends KernelName>(name: Name, input: KernelInput<Name>) {
      const own = compact(input)
      // A name and the input that goes with it are one of the calls; the compiler does not see it for a variable name.
      const kernel = { name, input: own } as unknown as KernelCall
      // A shard may be as large as the machine has room for once.
      const transfer = name === 'bm25-load' ? buffersOf(own) : []
      return ask<KernelOutput<Name>>({ kind: 'kernel', kernel }, transfer)
    },
    stats: () => ask<DriverStats>({ kind: 'stats' }),
    async close() {
      const isLost = lost.settled
      end(new CancelledError('The driver was closed.'))
      if (isLost || exited.settled) return
      send({ kind: 'close' })
      try {
        await withDeadline(exited.promise, CLOSE_MS, "the end of the engine's thread")
      } catch {
        await worker.terminate()
      }
    },
  }
}

function withoutAsk({ remote, ...sequence }: StepSequence): SentSequence {
  return remote === undefined ? sequence : { ...sequence, remote: { pages: remote.pages, mode: remote.mode } }
}
