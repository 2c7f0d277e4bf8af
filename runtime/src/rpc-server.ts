/**
 * A gRPC server with what every process of ours needs: the health service, the check of
 * the protocol version, keepalive, bounds on messages, and an orderly end.
 *
 * Invariants:
 * R1 A peer of a version that is not served is refused before its request is read; only
 *    the health service is open to all.
 * R2 After `drain` begins no call is accepted, and health says NOT_SERVING.
 * R3 `close` ends every call; it and `drain` may be called in any order and again.
 */
import {
  logVerbosity,
  type Metadata,
  Server,
  ServerCredentials,
  ServerInterceptingCall,
  type ServerInterceptor,
  type ServiceDefinition,
  setLogVerbosity,
  status,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import { HealthImplementation } from 'grpc-health-check'
import { InvalidInputError, messageOf } from './errors.js'
import type { Logger } from './log.js'
import { PROTOCOL_METADATA, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, protocolSupported } from './protocol.js'
import { readProtocolVersion } from './rpc-context.js'
import { SERVER_OPTIONS } from './rpc-limits.js'

export { bidi, type CallContext, clientStream, type Send, serverStream, unary } from './rpc-handlers.js'

// What the transport would print is thrown here too, as a sentence.
if (process.env.GRPC_VERBOSITY === undefined) setLogVerbosity(logVerbosity.NONE)

export interface RpcServerOptions {
  readonly host: string
  /** 0 takes a free one. */
  readonly port: number
  readonly services: readonly {
    readonly definition: ServiceDefinition
    readonly implementation: UntypedServiceImplementation
  }[]
  readonly log?: Logger
}

export interface RpcServer {
  /** `host:port`, with the port that was taken. */
  readonly address: string
  readonly port: number
  /** What the health service says from now on; true at the start. */
  setServing(serving: boolean): void
  /** Refuses new calls, waits for running ones at most `ms`, then ends them. */
  drain(ms: number): Promise<void>
  /** Ends every call at once. */
  close(): Promise<void>
}

/** Throws InvalidInputError when the port is taken or the host is not this machine's. */
export async function startRpcServer(options: RpcServerOptions): Promise<RpcServer> {
  const server = new Server({ ...SERVER_OPTIONS, interceptors: [checkProtocol] })
  for (const { definition, implementation } of options.services) {
    server.addService(definition, implementation)
  }
  const health = new HealthImplementation({ '': 'SERVING' })
  health.addToServer(server)
  const host = options.host.includes(':') ? `[${options.host}]` : options.host
  const port = await bind(server, host, options.port)
  options.log?.debug({ address: `${host}:${port}` }, 'gRPC server listens')

  let drained: Promise<void> | undefined
  let closed = false
  const setServing = (serving: boolean) => health.setStatus('', serving ? 'SERVING' : 'NOT_SERVING')
  const close = async () => {
    if (closed) return
    closed = true
    server.forceShutdown()
  }

  return {
    address: `${host}:${port}`,
    port,
    setServing,
    drain(ms) {
      drained ??= new Promise<void>((resolve) => {
        setServing(false)
        const force = setTimeout(() => {
          options.log?.warn({ waitedMs: ms }, 'calls still run at the end of the drain; ending them')
          void close().then(resolve)
        }, ms)
        server.tryShutdown(() => {
          clearTimeout(force)
          closed = true
          resolve()
        })
      })
      return drained
    },
    close,
  }
}

function bind(server: Server, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`${host}:${port}`, ServerCredentials.createInsecure(), (error, bound) => {
      if (error === null) resolve(bound)
      else reject(bindError(host, port, error))
    })
  })
}

/** What it means that a server cannot listen. */
export function bindError(host: string, port: number, error: Error): InvalidInputError {
  const reason = messageOf(error)
  const advice = /EADDRINUSE/.test(reason)
    ? `Port ${port} on ${host} is taken: choose another, 0 for any free one, or stop what uses it.`
    : `Cannot listen on ${host}:${port} (${reason}): choose an address of this machine.`
  return new InvalidInputError(advice, { param: 'port', cause: error })
}

/** Why a call is refused before its request is read; undefined where it is not. */
export function protocolRefusal(path: string, metadata: Metadata): string | undefined {
  const version = readProtocolVersion(metadata)
  return path.startsWith('/grpc.health.') || protocolSupported(version) ? undefined : refusal(version)
}

const checkProtocol: ServerInterceptor = (method, call) =>
  new ServerInterceptingCall(call, {
    start(next) {
      next({
        onReceiveMetadata(metadata, pass) {
          const details = protocolRefusal(method.path, metadata)
          if (details === undefined) pass(metadata)
          else call.sendStatus({ code: status.FAILED_PRECONDITION, details })
        },
      })
    },
  })

function refusal(version: number | undefined): string {
  const served =
    PROTOCOL_VERSION_MIN === PROTOCOL_VERSION
      ? `version ${PROTOCOL_VERSION}`
      : `versions ${PROTOCOL_VERSION_MIN} to ${PROTOCOL_VERSION}`
  const told =
    version === undefined
      ? `names no protocol version (metadata ${PROTOCOL_METADATA})`
      : `speaks protocol version ${version}`
  return `The caller ${told}, this process serves ${served}: run the same release of Kvasir on both sides.`
}
