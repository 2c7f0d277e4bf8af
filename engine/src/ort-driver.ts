/**
 * The device driver on ONNX Runtime: one worker thread that computes, so that the
 * caller's thread is never blocked.
 *
 * O1 Every call settles: when the thread ends, for whatever reason, pending and later calls reject.
 * O2 The thread is asked to end and ends between two calls into ONNX Runtime; only one that does not
 *    within CLOSE_MS is ended by force, which may abort the process.
 * O3 `data` given to `writeBlocks` or `writeBounds`, and a shard given to bm25-load, is transferred when
 *    it is the whole of its buffer or its caller says that the buffer is the driver's, else copied.
 */
import { MessageChannel, Worker } from 'node:worker_threads'
import { recycle, takeBuffer } from '@kvasir/runtime/bulk-buffers'
import { deferred, withDeadline } from '@kvasir/runtime/deferred'
import { CancelledError, InternalError, KvasirError, messageOf } from '@kvasir/runtime/errors'
import type { DeviceDriver, DriverModel, DriverStats, ModelPlan, StepSequence } from './device-driver.js'
import { quietLibraries } from './execution-provider.js'
import { KERNEL_DESCRIPTIONS } from './kernel-limits.js'
import type { AttentionKernelName, KernelInput, KernelOutput, SearchKernelName } from './kernels.js'
import { STEP_ROWS_MAX } from './limits.js'
import type { ComputeOptions } from './ort-session.js'
import {
  type AttentionCall,
  buffersOf,
  compact,
  type FromWorker,
  type LoadedInWorker,
  plainError,
  revivedError,
  type SearchCall,
  type SentSequence,
  type SentStepResult,
  type ToWorker,
  type WorkerCall,
} from './worker-protocol.js'

/** Longer than one call into ONNX Runtime takes: a layer of a large model over a long chunk. */
const CLOSE_MS = 10_000

interface Pending {
  readonly resolve: (value: unknown) => void
  readonly reject: (error: KvasirError) => void
}

/** A step that the thread has been given. */
interface GivenStep {
  readonly sequences: readonly StepSequence[]
  readonly onLayer: ((layer: number) => void) | undefined
  /** By sequence: the error as its owner gave it, which the thread knows as data only. */
  readonly remoteErrors: Map<number, KvasirError>
}

export function createOrtDriver(options: ComputeOptions = {}): DeviceDriver {
  if (options.provider !== undefined && options.provider !== 'cpu') quietLibraries()
  const { port1: port, port2 } = new MessageChannel()
  // The same file from src/ and from dist/. Flags of this process, such as a test runner's, stay here.
  const worker = new Worker(new URL('../dist/ort-worker.js', import.meta.url), {
    workerData: { port: port2 },
    transferList: [port2],
    execArgv: [],
    name: 'onnxruntime',
  })
  const pending = new Map<number, Pending>()
  const steps = new Map<number, GivenStep>()
  let lastId = 0
  let ended: KvasirError | undefined
  const lost = deferred<KvasirError>()
  const exited = deferred<void>()

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
    if (message.kind === 'layer') return steps.get(message.id)?.onLayer?.(message.layer)
    if (message.kind === 'ask') return void answer(message)
    const call = pending.get(message.id)
    pending.delete(message.id)
    if (message.kind === 'done') call?.resolve(message.value)
    else call?.reject(revivedError(message.error))
  })

  function send(message: ToWorker, transfer: ArrayBuffer[] = []): void {
    port.postMessage(message, transfer)
  }

  // Only the worker knows the results' types; both sides are of one version and one package.
  function ask<T>(call: WorkerCall, transfer: ArrayBuffer[] = [], id = ++lastId): Promise<T> {
    if (ended !== undefined) return Promise.reject(ended)
    return new Promise<T>((resolve, reject) => {
      pending.set(id, { resolve: (value) => resolve(value as T), reject })
      send({ id, call }, transfer)
    })
  }

  /** Asks the other device in the thread's place. */
  async function answer({ id, ask, sequence, query }: Extract<FromWorker, { kind: 'ask' }>): Promise<void> {
    const step = steps.get(id)
    const remote = step?.sequences[sequence]?.remote
    let reply: ToWorker
    try {
      if (remote === undefined) throw new InternalError(`Sequence ${sequence} has no other device to ask.`)
      reply = { kind: 'answer', ask, answer: compact(await remote.ask(query)) }
    } catch (thrown) {
      const error = KvasirError.from(thrown)
      step?.remoteErrors.set(sequence, error)
      reply = { kind: 'answer', ask, answer: plainError(error) }
    }
    if (ended === undefined) send(reply)
  }

  function loadedModel({ model, facts }: LoadedInWorker): DriverModel {
    let stepId: number | undefined
    const put = async (
      kind: 'write' | 'write-bounds',
      layer: number,
      blocks: Uint32Array,
      data: Uint8Array,
      owned = false,
    ): Promise<void> => {
      const own = owned ? data : ownCopy(data)
      const back = await ask<Uint8Array | undefined>(
        { kind, model, layer, blocks: compact(blocks), data: own },
        buffersOf(own),
      )
      if (back !== undefined) recycle(back)
    }
    return {
      facts,
      async step(sequences, onLayer) {
        if (stepId !== undefined) throw new InternalError('The model runs a step already; wait for it.')
        const id = ++lastId
        stepId = id
        const given: GivenStep = { sequences, onLayer, remoteErrors: new Map() }
        steps.set(id, given)
        try {
          const call = { kind: 'step', model, sequences: compact(sequences.map(withoutAsk)) } as const
          const { failed, ...result } = await ask<SentStepResult>(call, [], id)
          return {
            ...result,
            failed: failed.map(({ sequence, error }) => ({
              sequence,
              error: given.remoteErrors.get(sequence) ?? revivedError(error),
            })),
          }
        } finally {
          stepId = undefined
          steps.delete(id)
        }
      },
      cancelStep() {
        if (stepId !== undefined && ended === undefined) send({ kind: 'cancel', id: stepId })
      },
      readBlocks(layer, blocks) {
        const { buffer: room } = takeBuffer(blocks.length * facts.blockLayerBytes)
        return ask<Uint8Array>({ kind: 'read', model, layer, blocks: compact(blocks), room }, [room])
      },
      writeBlocks: (layer, blocks, data, owned) => put('write', layer, blocks, data, owned),
      copyBlocks: (from, to) => ask<void>({ kind: 'copy', model, from: compact(from), to: compact(to) }),
      readBounds: (layer, blocks) =>
        ask<Uint8Array>({ kind: 'read-bounds', model, layer, blocks: compact(blocks) }),
      writeBounds: (layer, blocks, data) => put('write-bounds', layer, blocks, data),
      runKernel<Name extends AttentionKernelName>(name: Name, input: KernelInput<Name>) {
        // A name and the input that goes with it are one of the calls; the compiler does not see it for a variable name.
        const kernel = { name, input: compact(input) } as unknown as AttentionCall
        return ask<KernelOutput<Name>>({ kind: 'kernel', model, kernel })
      },
      stats: () => ask<DriverStats>({ kind: 'stats', model }),
      unload: () => ask<void>({ kind: 'unload', model }),
    }
  }

  return {
    lost: lost.promise,
    describe: () => ({
      name: `onnxruntime-${options.provider ?? 'cpu'}`,
      kernels: KERNEL_DESCRIPTIONS,
      rowsMax: STEP_ROWS_MAX,
    }),
    inspectModel: (model) => ask<ModelPlan>({ kind: 'inspect', options: model }),
    async loadModel(load) {
      const call = { kind: 'load', options: load, compute: options } as const
      return loadedModel(await ask<LoadedInWorker>(call))
    },
    runKernel<Name extends SearchKernelName>(name: Name, input: KernelInput<Name>) {
      const own = compact(input)
      // As above.
      const kernel = { name, input: own } as unknown as SearchCall
      // A shard may be as large as the machine has room for once.
      const transfer = name === 'bm25-load' ? buffersOf(own) : []
      return ask<KernelOutput<Name>>({ kind: 'search', kernel }, transfer)
    },
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

/** `data` where it is the whole of its buffer, else a copy. */
function ownCopy(data: Uint8Array): Uint8Array {
  if (data.byteLength === data.buffer.byteLength) return data
  const copy = takeBuffer(data.byteLength)
  copy.set(data)
  return copy
}
