/**
 * The thread that ONNX Runtime lives in: it holds the model and the KV pool, and blocks while it computes.
 *
 * W1 Reads, writes and cancels that arrive while a step runs are served between its calls into
 *    ONNX Runtime, in the order in which they came.
 * W2 Results are transferred, not copied.
 * W3 It ends by itself, between two calls into ONNX Runtime: ending a thread inside one aborts the process.
 */
import { type MessagePort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { InternalError, InvalidInputError } from '@kvasir/runtime/errors'
import { Transformer } from './transformer.js'
import { type FromWorker, plainError, type ToWorker, type WorkerCall } from './worker-protocol.js'

const port: MessagePort = workerData.port
let model: Transformer | undefined
let stepping = false
let cancelled = false
let closing = false
let calls = 0

port.on('message', accept)

function accept(message: ToWorker): void {
  if ('kind' in message) {
    cancelled = stepping
    closing ||= message.kind === 'close'
    endWhenIdle()
    return
  }
  const { id, call } = message
  calls += 1
  serve(call)
    .then(
      (value) => reply({ kind: 'done', id, value }, transferable(value)),
      (error) => reply({ kind: 'failed', id, error: plainError(error) }),
    )
    .finally(() => {
      calls -= 1
      endWhenIdle()
    })
}

function endWhenIdle(): void {
  if (closing && calls === 0) port.close()
}

async function serve(call: WorkerCall): Promise<unknown> {
  if (call.kind === 'load') {
    if (model !== undefined) throw new InternalError('The driver has loaded a model already.')
    model = await Transformer.load(call.options, call.threads, () => {
      drain()
      return closing
    })
    return model.facts
  }
  const loaded = model
  if (loaded === undefined) throw new InternalError('The driver has no model yet; load one first.')
  switch (call.kind) {
    case 'step':
      if (stepping) throw new InternalError('The driver runs a step already; wait for it.')
      stepping = true
      cancelled = false
      try {
        return await loaded.step(call.sequences, {
          onLayer: (layer) => reply({ kind: 'layer', layer }),
          between: () => {
            drain()
            return cancelled
          },
        })
      } finally {
        stepping = false
      }
    case 'read':
      checkLayer(loaded, call.layer)
      loaded.checkBlocks(call.blocks)
      return loaded.slabs.readBlocks(call.layer, call.blocks)
    case 'write':
      checkLayer(loaded, call.layer)
      loaded.checkBlocks(call.blocks)
      if (call.data.byteLength !== call.blocks.length * loaded.slabs.blockBytes) {
        throw new InvalidInputError(
          `${call.blocks.length} blocks are ${call.blocks.length * loaded.slabs.blockBytes} bytes, not ${call.data.byteLength}.`,
        )
      }
      return loaded.slabs.writeBlocks(call.layer, call.blocks, call.data)
    case 'stats':
      return loaded.stats()
  }
}

/** Takes what has arrived since the event loop last looked. */
function drain(): void {
  for (let next = receiveMessageOnPort(port); next !== undefined; next = receiveMessageOnPort(port)) {
    accept(next.message)
  }
}

function checkLayer(loaded: Transformer, layer: number): void {
  if (!Number.isInteger(layer) || layer < 0 || layer >= loaded.facts.layers) {
    throw new InvalidInputError(`There is no layer ${layer}; the model has ${loaded.facts.layers}.`)
  }
}

function reply(message: FromWorker, transfer: ArrayBuffer[] = []): void {
  port.postMessage(message, transfer)
}

function transferable(value: unknown): ArrayBuffer[] {
  const logits = typeof value === 'object' && value !== null && 'logits' in value ? value.logits : value
  return ArrayBuffer.isView(logits) && logits.buffer instanceof ArrayBuffer ? [logits.buffer] : []
}
