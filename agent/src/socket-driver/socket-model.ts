/**
 * One model of a driver behind a socket.
 *
 * D1 A reason that a driver gives for failing a step speaks for the device, never for the request: a step
 *    fails as overloaded, cancelled or unsupported, or else as a fault of the device.
 */
import type { DriverModel, DriverStats, StepResult, StepSequence } from '@kvasir/engine/device-driver'
import type { AttentionKernelName, KernelInput, KernelOutput } from '@kvasir/engine/kernels'
import { pageBoundsBytes } from '@kvasir/engine/kv-format'
import type { LayerBlocks } from '@kvasir/proto/kvasir/driver/v1/driver'
import { CorruptDataError, type ErrorCode, InternalError, KvasirError } from '@kvasir/runtime/errors'
import { answered, type DriverConnection, readBytes, readDone, type Said } from './driver-connection.js'
import { ATTENTION_KERNELS } from './kernel-messages.js'
import type { LoadedByDriver } from './model-messages.js'
import {
  type AskedQuery,
  answerMessage,
  failedAnswer,
  queryOf,
  stepMessage,
  stepResultOf,
} from './step-messages.js'

/** Throws UnsupportedError for a kernel that the driver does not declare. */
export type CheckKernel = (name: string) => void

const STEP_CODES: readonly ErrorCode[] = ['overloaded', 'cancelled', 'unsupported', 'unreachable', 'internal']

export function socketModel(
  connection: DriverConnection,
  { model, facts }: LoadedByDriver,
  checkKernel: CheckKernel,
): DriverModel {
  let stepping = false
  let stepId: bigint | undefined

  const done = (
    kind: 'writeBlocks' | 'writeBounds',
    layer: number,
    blocks: Uint32Array,
    data: Uint8Array,
  ): Promise<void> => {
    return connection.call(
      { $case: kind, value: layerBlocks(layer, blocks) },
      { model, payload: [data], read: readDone },
    )
  }
  /** `bytes`: of each block. */
  const read = (
    kind: 'readBlocks' | 'readBounds',
    layer: number,
    blocks: Uint32Array,
    bytes: number,
  ): Promise<Uint8Array> => {
    const expected = blocks.length * bytes
    return connection.call(
      { $case: kind, value: layerBlocks(layer, blocks) },
      { model, read: (said) => readBytes(said, expected) },
    )
  }

  async function step(
    sequences: readonly StepSequence[],
    onLayer: ((layer: number) => void) | undefined,
  ): Promise<StepResult> {
    const remoteErrors = new Map<number, KvasirError>()
    let layers = 0
    const onEvent = (id: bigint, said: Said) => {
      if (said.reply.$case === 'ask') {
        void answer(id, queryOf(said, sequences, facts))
        return
      }
      const { layer } = answered(said, 'layer')
      if (onLayer === undefined || layer !== layers || layer >= facts.layers) {
        throw new CorruptDataError(
          `it told of layer ${layer} where layer ${layers} of ${facts.layers} was due`,
        )
      }
      layers += 1
      onLayer(layer)
    }
    const answer = async (id: bigint, { ask, remote, sequence, query }: AskedQuery) => {
      try {
        const { message, payload } = answerMessage(ask, await remote.ask(query))
        connection.post(id, { $case: 'answer', value: message }, payload)
      } catch (thrown) {
        const error = KvasirError.from(thrown)
        remoteErrors.set(sequence, error)
        connection.post(id, { $case: 'answer', value: failedAnswer(ask, error) })
      }
    }
    return connection.call(
      { $case: 'step', value: stepMessage(sequences, onLayer !== undefined) },
      {
        model,
        onEvent,
        onSent: (id) => {
          stepId = id
        },
        read: (said) => {
          const result = stepResultOf(said, sequences, facts, remoteErrors)
          if (onLayer !== undefined && !result.cancelled && layers < facts.layers) {
            throw new CorruptDataError(`it ended a step after ${layers} of ${facts.layers} layers`)
          }
          return result
        },
      },
    )
  }

  return {
    facts,
    async step(sequences, onLayer) {
      if (stepping) throw new InternalError('The model runs a step already; wait for it.')
      stepping = true
      try {
        return await step(sequences, onLayer)
      } catch (thrown) {
        const error = KvasirError.from(thrown)
        if (STEP_CODES.includes(error.code)) throw error
        throw new InternalError(`The device failed a step: ${error.message}`, { cause: error })
      } finally {
        stepping = false
        stepId = undefined
      }
    },
    cancelStep() {
      if (stepId !== undefined) connection.post(stepId, { $case: 'cancel', value: {} })
    },
    readBlocks: (layer, blocks) => read('readBlocks', layer, blocks, facts.blockLayerBytes),
    // Sent from where it stands, unless that may change meanwhile.
    writeBlocks: (layer, blocks, data, owned = data.byteLength === data.buffer.byteLength) =>
      done('writeBlocks', layer, blocks, owned ? data : new Uint8Array(data)),
    copyBlocks: (from, to) =>
      connection.call(
        { $case: 'copyBlocks', value: { from: [...from], to: [...to] } },
        { model, read: readDone },
      ),
    readBounds: (layer, blocks) => read('readBounds', layer, blocks, pageBoundsBytes(facts)),
    writeBounds: (layer, blocks, data) => done('writeBounds', layer, blocks, new Uint8Array(data)),
    async runKernel<Name extends AttentionKernelName>(
      name: Name,
      input: KernelInput<Name>,
    ): Promise<KernelOutput<Name>> {
      checkKernel(name)
      const { request, ...options } = ATTENTION_KERNELS[name](input, facts)
      return connection.call(request, { model, ...options })
    },
    stats: () => connection.call({ $case: 'stats', value: {} }, { model, read: statsOf }),
    unload: () => connection.call({ $case: 'unload', value: {} }, { model, read: readDone }),
  }
}

function layerBlocks(layer: number, blocks: Uint32Array): LayerBlocks {
  return { layer, blocks: [...blocks] }
}

function statsOf(said: Said): DriverStats {
  const { steps, matrixCalls, attentionCalls, rows } = answered(said, 'stats')
  return {
    steps: Number(steps),
    matrixCalls: Number(matrixCalls),
    attentionCalls: Number(attentionCalls),
    rows: Number(rows),
  }
}
