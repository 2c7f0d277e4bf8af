/** A driver that says what a test has it say, right or wrong, to the byte. */
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { FrameReader, writeFrame } from '@kvasir/engine/driver-process/frames'
import { DriverReply, DriverRequest, type HelloReply } from '@kvasir/proto/kvasir/driver/v1/driver'
import type { Reply, Request } from '../socket-driver/driver-connection.js'

export interface ScriptedCall {
  readonly id: bigint
  readonly request: Request
  readonly payload: Uint8Array
  readonly socket: Socket
  /** Replies to this call. */
  reply(reply: Reply, payload?: Uint8Array): void
  /** Says something of any id. */
  say(id: bigint, reply: Reply, payload?: Uint8Array): void
}

export type Script = Partial<Record<Request['$case'], (call: ScriptedCall) => void>>

/** Layers, heads and so on of its model. */
export const SCRIPTED = { layers: 2, vocabulary: 5, blockLayerBytes: 2 * 16 * 2 * 4 } as const

const hello: HelloReply = {
  protocolVersion: 1,
  name: 'scripted',
  kernels: ['step', 'page-scores', 'choose-pages', 'bm25-search'].map((name) => ({
    name,
    version: 1,
    limits: {},
  })),
  rowsMax: 64,
  payloadBytesMax: 1n << 20n,
  silenceMsMax: 300,
  progressMsMax: 600,
  deviceModel: '',
}

const loaded: Extract<Reply, { $case: 'loaded' }>['value'] = {
  model: 1,
  name: 'scripted-model',
  digest: 'ab'.repeat(32),
  numerics: { weights: 'WEIGHT_FORMAT_F32', pool: 'KV_FORMAT_F32', wire: 'KV_FORMAT_F32' },
  contextTokensMax: 128,
  vocabularySize: SCRIPTED.vocabulary,
  layers: SCRIPTED.layers,
  heads: 1,
  kvHeads: 1,
  headDim: 2,
  blockLayerBytes: BigInt(SCRIPTED.blockLayerBytes),
  poolBlockBytes: BigInt(SCRIPTED.layers * SCRIPTED.blockLayerBytes),
  parameters: 10n,
  weightBytes: 40n,
  stopTokens: [0],
}

export const DONE: Reply = { $case: 'done', value: {} }

/** What a step is answered with that did as it should. */
export function stepDone(rows = 1): [Reply, Uint8Array] {
  const reply: Reply = {
    $case: 'step',
    value: { elapsedUs: 10, cancelled: false, failed: [], attention: [] },
  }
  return [reply, new Uint8Array(new Float32Array(rows * SCRIPTED.vocabulary).fill(1).buffer)]
}

export class ScriptedDriver {
  readonly folder = mkdtempSync(join(tmpdir(), 'kvasir-driver-'))
  readonly socketPath = join(this.folder, 'driver.sock')
  readonly #server: Server
  readonly #sockets = new Set<Socket>()

  private constructor(script: Script) {
    this.#server = createServer((socket) => {
      this.#sockets.add(socket)
      socket.on('error', () => {})
      const reader = new FrameReader((message, payload) => {
        const { id, request } = DriverRequest.decode(message)
        if (request === undefined) throw new Error('a request of no kind')
        const say: ScriptedCall['say'] = (own, reply, bytes) => {
          writeFrame(
            socket,
            DriverReply.encode({ id: own, reply }).finish(),
            bytes === undefined ? [] : [bytes],
          )
        }
        const call = {
          id,
          request,
          payload,
          socket,
          say,
          reply: (reply: Reply, bytes?: Uint8Array) => say(id, reply, bytes),
        }
        const act = script[request.$case] ?? usual[request.$case]
        act?.(call)
      })
      socket.on('data', (bytes) => reader.push(bytes))
    })
  }

  /** What the script does not name is done as it should be: hello, load, ping. */
  static async start(script: Script): Promise<ScriptedDriver> {
    const driver = new ScriptedDriver(script)
    await new Promise<void>((resolve) => driver.#server.listen(driver.socketPath, resolve))
    return driver
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
    rmSync(this.folder, { recursive: true, force: true })
  }
}

const usual: Script = {
  hello: ({ reply }) => reply({ $case: 'hello', value: hello }),
  load: ({ reply }) => reply({ $case: 'loaded', value: loaded }),
  ping: ({ reply }) => reply(DONE),
}

/** The usual answer to Hello or Load, with changes. */
export function helloReply(changes: Partial<HelloReply>): Reply {
  return { $case: 'hello', value: { ...hello, ...changes } }
}

export function loadedReply(changes: Partial<typeof loaded>): Reply {
  return { $case: 'loaded', value: { ...loaded, ...changes } }
}
