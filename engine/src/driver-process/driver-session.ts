/**
 * One connection of an agent to a driver: requests in, replies out, for any DeviceDriver.
 *
 * Invariants (P1 to P5 are the protocol's, proto/kvasir/driver/v1/driver.proto):
 * S1 Requests are given to the driver as they come, before the next one is looked at, so its order is theirs.
 * S2 What breaks the protocol ends the connection; what the driver refuses ends the call.
 * S3 However the connection ends, its models and shards are freed, those that are still being loaded included, and
 *    only then `ended` resolves.
 * S4 Who connects and does not say Hello is let go, since others wait.
 */
import type { Socket } from 'node:net'
import { DriverReply, DriverRequest } from '@kvasir/proto/kvasir/driver/v1/driver'
import { type Deferred, deferred, withDeadline } from '@kvasir/runtime/deferred'
import { CancelledError, InvalidInputError, messageOf, NotFoundError } from '@kvasir/runtime/errors'
import type { DeviceDriver, DriverModel, RemoteAnswer, RemoteAttention } from '../device-driver.js'
import { errorOfFailure, failureMessage } from './failure-message.js'
import { FrameReader, PAYLOAD_BYTES_MAX, writeFrame } from './frames.js'
import { PayloadReader } from './payload.js'
import { DRIVER_PROTOCOL_VERSION, PROGRESS_MS_MAX, SILENCE_MS_MAX } from './protocol-limits.js'
import {
  type Answered,
  answerAttention,
  answerSearch,
  DONE,
  type Reply,
  type Request,
} from './served-kernels.js'
import { loadedMessage, modelOptionsOf, planMessage } from './served-models.js'
import { askMessage, remoteAnswerOf, stepResultMessage, stepSequencesOf } from './served-step.js'

/** The agent answers within its own, shorter deadline. */
const ANSWER_MS_MAX = 60_000
/** Unread replies above which no more requests are read. */
const UNREAD_BYTES_MAX = 256 << 20

export interface DriverSession {
  /** Resolves when the connection is over and all that it had is free, with why where that is not the agent's wish. */
  readonly ended: Promise<string | undefined>
  close(): void
}

interface OpenAsk {
  readonly answer: Deferred<RemoteAnswer>
  readonly model: DriverModel
  readonly mode: RemoteAttention['mode']
}

/** `helloMs`: time for the first request to come. */
export function serveDriver(
  driver: DeviceDriver,
  socket: Socket,
  helloMs: number = SILENCE_MS_MAX,
): DriverSession {
  return new Session(driver, socket, helloMs)
}

class Session implements DriverSession {
  readonly #driver: DeviceDriver
  readonly #socket: Socket
  readonly #ended: Deferred<string | undefined> = deferred()
  readonly #models = new Map<number, DriverModel>()
  /** Models on their way. */
  readonly #loads = new Set<Promise<Answered>>()
  readonly #shards = new Set<string>()
  readonly #steps = new Map<bigint, DriverModel>()
  readonly #asks = new Map<bigint, OpenAsk>()
  readonly #alive: NodeJS.Timeout
  readonly #helloDue: NodeJS.Timeout
  #pending = 0
  #lastModel = 0
  #lastAsk = 0n
  #greeted = false
  #saidSomething = false
  #violation: string | undefined
  #over = false

  constructor(driver: DeviceDriver, socket: Socket, helloMs: number) {
    this.#driver = driver
    this.#socket = socket
    const reader = new FrameReader((message, payload) => this.#take(message, payload))
    socket.on('data', (bytes) => {
      try {
        reader.push(bytes)
      } catch (error) {
        this.#violated(messageOf(error))
      }
    })
    // What a broken connection says is said by its end.
    socket.on('error', () => {})
    socket.on('drain', () => socket.resume())
    socket.on('close', () => void this.#end())
    this.#alive = setInterval(() => this.#sayAlive(), SILENCE_MS_MAX / 4)
    this.#helloDue = setTimeout(() => this.#violated('It did not say Hello.'), helloMs)
  }

  get ended(): Promise<string | undefined> {
    return this.#ended.promise
  }

  close(): void {
    this.#socket.destroy()
  }

  #violated(why: string): void {
    this.#violation ??= why
    this.#socket.destroy()
  }

  #take(bytes: Uint8Array, payload: Uint8Array<ArrayBuffer>): void {
    if (this.#over) return
    const { id, model, request } = DriverRequest.decode(bytes)
    if (request === undefined) throw new InvalidInputError('A request of an unknown kind came.')
    if (!this.#greeted && request.$case !== 'hello') {
      throw new InvalidInputError('The first request must be Hello.')
    }
    if (request.$case === 'cancel') {
      this.#steps.get(id)?.cancelStep()
    } else if (request.$case === 'answer') {
      this.#answered(request.value, payload)
    } else {
      this.#pending += 1
      void this.#serve(id, model, request, payload).then(
        ({ reply, payload: parts }) => this.#reply(id, reply, parts),
        (thrown: unknown) => this.#reply(id, { $case: 'failure', value: failureMessage(thrown) }),
      )
    }
  }

  /** Issues the call before it returns (S1). */
  async #serve(
    id: bigint,
    model: number,
    request: Request,
    payload: Uint8Array<ArrayBuffer>,
  ): Promise<Answered> {
    switch (request.$case) {
      case 'hello':
        this.#greeted = true
        clearTimeout(this.#helloDue)
        return { reply: { $case: 'hello', value: this.#hello() } }
      case 'ping':
        return { reply: DONE }
      case 'inspect': {
        const plan = await this.#driver.inspectModel(modelOptionsOf(request.value))
        return { reply: { $case: 'inspected', value: planMessage(plan) } }
      }
      case 'load': {
        const loading = this.#load(request.value)
        this.#loads.add(loading)
        return loading.finally(() => this.#loads.delete(loading))
      }
      case 'bm25Load':
        this.#shards.add(request.value.key)
        return answerSearch(this.#driver, request, payload)
      case 'bm25Unload':
        this.#shards.delete(request.value.key)
        return answerSearch(this.#driver, request, payload)
      case 'bm25Search':
        return answerSearch(this.#driver, request, payload)
      case 'unload': {
        const unloaded = this.#model(model).unload()
        this.#models.delete(model)
        await unloaded
        return { reply: DONE }
      }
      default:
        return this.#serveModel(id, this.#model(model), request, payload)
    }
  }

  async #serveModel(
    id: bigint,
    model: DriverModel,
    request: Request,
    payload: Uint8Array<ArrayBuffer>,
  ): Promise<Answered> {
    switch (request.$case) {
      case 'step':
        return this.#step(id, model, request.value)
      case 'readBlocks':
      case 'readBounds': {
        const { layer, blocks } = request.value
        const ids = Uint32Array.from(blocks)
        const isBounds = request.$case === 'readBounds'
        const data = await (isBounds ? model.readBounds(layer, ids) : model.readBlocks(layer, ids))
        return { reply: DONE, payload: [data] }
      }
      case 'writeBlocks':
        await model.writeBlocks(request.value.layer, Uint32Array.from(request.value.blocks), payload, true)
        return { reply: DONE }
      case 'writeBounds':
        await model.writeBounds(request.value.layer, Uint32Array.from(request.value.blocks), payload)
        return { reply: DONE }
      case 'copyBlocks':
        await model.copyBlocks(Uint32Array.from(request.value.from), Uint32Array.from(request.value.to))
        return { reply: DONE }
      case 'stats': {
        const { steps, matrixCalls, attentionCalls, rows } = await model.stats()
        const value = {
          steps: BigInt(steps),
          matrixCalls: BigInt(matrixCalls),
          attentionCalls: BigInt(attentionCalls),
          rows: BigInt(rows),
        }
        return { reply: { $case: 'stats', value } }
      }
      case 'pageBounds':
      case 'pageScores':
      case 'topK':
      case 'partialAttention':
      case 'choosePages':
        return answerAttention(model, request, payload)
      default:
        throw new InvalidInputError(`${request.$case} is no call of a model.`)
    }
  }

  async #step(
    id: bigint,
    model: DriverModel,
    message: Extract<Request, { $case: 'step' }>['value'],
  ): Promise<Answered> {
    const modes = message.sequences.map(({ remote }) => remote?.mode)
    const sequences = stepSequencesOf(message, (sequence, query) => {
      this.#lastAsk += 1n
      const ask = this.#lastAsk
      const answer = deferred<RemoteAnswer>()
      const mode = modes[sequence] === 'REMOTE_MODE_PARTIAL' ? 'partial' : 'indices'
      this.#asks.set(ask, { answer, model, mode })
      const { message: value, payload } = askMessage(ask, sequence, query)
      this.#send(id, { $case: 'ask', value }, payload)
      return withDeadline(answer.promise, ANSWER_MS_MAX, 'waiting for the other device').finally(() =>
        this.#asks.delete(ask),
      )
    })
    const onLayer = (layer: number) => this.#send(id, { $case: 'layer', value: { layer } })
    this.#steps.set(id, model)
    try {
      const result = await model.step(sequences, message.reportLayers ? onLayer : undefined)
      const { message: value, payload } = stepResultMessage(result)
      return { reply: { $case: 'step', value }, payload }
    } finally {
      this.#steps.delete(id)
    }
  }

  #answered(answer: Extract<Request, { $case: 'answer' }>['value'], payload: Uint8Array<ArrayBuffer>): void {
    const open = this.#asks.get(answer.ask)
    if (open === undefined) return
    if (answer.failure === undefined) {
      open.answer.resolve(remoteAnswerOf(answer, new PayloadReader(payload), open.mode, open.model.facts))
    } else {
      open.answer.reject(errorOfFailure(answer.failure))
    }
  }

  async #load(message: Extract<Request, { $case: 'load' }>['value']): Promise<Answered> {
    const { kvBlocksMax } = message
    const model = await this.#driver.loadModel({ ...modelOptionsOf(message), kvBlocksMax })
    if (this.#over) {
      await model.unload().catch(() => {})
      throw new CancelledError('The agent has left.')
    }
    this.#lastModel += 1
    this.#models.set(this.#lastModel, model)
    return { reply: { $case: 'loaded', value: loadedMessage(this.#lastModel, model.facts) } }
  }

  #model(number: number): DriverModel {
    const model = this.#models.get(number)
    if (model === undefined) throw new NotFoundError(`The driver has no model ${number}; load it first.`)
    return model
  }

  #hello(): Extract<Reply, { $case: 'hello' }>['value'] {
    const { name, kernels, rowsMax, deviceModel = '' } = this.#driver.describe()
    return {
      protocolVersion: DRIVER_PROTOCOL_VERSION,
      name,
      kernels: kernels.map((kernel) => ({
        name: kernel.name,
        version: kernel.version,
        limits: Object.fromEntries(
          Object.entries(kernel.limits).map(([limit, most]) => [limit, BigInt(most)]),
        ),
      })),
      rowsMax,
      payloadBytesMax: BigInt(PAYLOAD_BYTES_MAX),
      silenceMsMax: SILENCE_MS_MAX,
      progressMsMax: PROGRESS_MS_MAX,
      deviceModel,
    }
  }

  #reply(id: bigint, reply: Reply, payload?: readonly Uint8Array[]): void {
    this.#pending -= 1
    this.#send(id, reply, payload)
  }

  #send(id: bigint, reply: Reply, payload?: readonly Uint8Array[]): void {
    if (this.#over) return
    this.#saidSomething = true
    try {
      writeFrame(this.#socket, DriverReply.encode({ id, reply }).finish(), payload)
    } catch (error) {
      this.#violated(messageOf(error))
    }
    if (this.#socket.writableLength > UNREAD_BYTES_MAX) this.#socket.pause()
  }

  #sayAlive(): void {
    if (this.#pending > 0 && !this.#saidSomething) this.#send(0n, { $case: 'alive', value: {} })
    this.#saidSomething = false
  }

  async #end(): Promise<void> {
    this.#over = true
    clearInterval(this.#alive)
    clearTimeout(this.#helloDue)
    const error = new CancelledError('The agent has left.')
    for (const model of this.#steps.values()) model.cancelStep()
    for (const { answer } of this.#asks.values()) answer.reject(error)
    const freed: Promise<unknown>[] = [
      ...this.#loads,
      ...Array.from(this.#models.values(), (model) => model.unload()),
      ...Array.from(this.#shards, (key) => this.#driver.runKernel('bm25-unload', { key })),
    ]
    // A driver that is lost frees nothing, and has nothing to free.
    await Promise.allSettled(freed)
    this.#ended.resolve(this.#violation)
  }
}
