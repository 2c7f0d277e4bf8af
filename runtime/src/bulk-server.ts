/**
 * The serving end of a KV endpoint: what rpc-server.ts is, on connections made for bulk data
 * (http2/connection.ts). Every gRPC client can call it; windows and frames are large for those that ask.
 *
 * Invariants: R1 to R3 of rpc-server.ts.
 */
import { createServer, type Socket } from 'node:net'
import { type Server, status, type UntypedHandleCall } from '@grpc/grpc-js'
import { HealthImplementation } from 'grpc-health-check'
import type { AnyMethod } from './bulk-call.js'
import { BulkServerCall } from './bulk-server-call.js'
import { headerOf, metadataOf, statusError, trailersOf } from './grpc-wire.js'
import { Http2Connection } from './http2/connection.js'
import type { Header } from './http2/hpack-tables.js'
import type { Http2Stream } from './http2/stream.js'
import {
  BULK_WINDOW_BYTES,
  CONCURRENT_CALLS_MAX,
  SERVER_KEEPALIVE_MS,
  SERVER_KEEPALIVE_TIMEOUT_MS,
} from './rpc-limits.js'
import { bindError, protocolRefusal, type RpcServer, type RpcServerOptions } from './rpc-server.js'

interface ServedMethod {
  readonly method: AnyMethod
  readonly handler: UntypedHandleCall
}

/** Throws InvalidInputError when the port is taken or the host is not this machine's. */
export async function startBulkServer(options: RpcServerOptions): Promise<RpcServer> {
  const methods = new Map<string, ServedMethod>()
  const addService: Server['addService'] = (definition, implementation) => {
    for (const [name, method] of Object.entries(definition)) {
      const handler = implementation[name] ?? implementation[method.originalName ?? '']
      if (handler !== undefined) methods.set(method.path, { method, handler })
    }
  }
  for (const { definition, implementation } of options.services) addService(definition, implementation)
  const health = new HealthImplementation({ '': 'SERVING' })
  // Of a server it needs nothing else.
  health.addToServer({ addService } as Pick<Server, 'addService'> as Server)
  const setServing = (serving: boolean) => health.setStatus('', serving ? 'SERVING' : 'NOT_SERVING')

  const connections = new Set<Http2Connection>()
  let onIdle: (() => void) | undefined
  const accept = (socket: Socket) => {
    const peer = `${socket.remoteAddress}:${socket.remotePort}`
    const connection = new Http2Connection(
      socket,
      {
        role: 'server',
        windowBytes: BULK_WINDOW_BYTES,
        streamsMax: CONCURRENT_CALLS_MAX,
        pingMs: SERVER_KEEPALIVE_MS,
        pongMs: SERVER_KEEPALIVE_TIMEOUT_MS,
      },
      {
        stream: (stream, headers) => serve(methods, stream, headers, peer),
        leaving() {},
        closed() {
          connections.delete(connection)
          if (connections.size === 0) onIdle?.()
        },
      },
    )
    connections.add(connection)
    socket.on('data', (bytes) => connection.feed(bytes))
  }
  const server = createServer(accept)
  const port = await listen(server, options.host, options.port)
  const host = options.host.includes(':') ? `[${options.host}]` : options.host
  options.log?.debug({ address: `${host}:${port}` }, 'gRPC server for bulk data listens')

  let drained: Promise<void> | undefined
  const close = async () => {
    server.close()
    for (const connection of [...connections]) connection.destroy(new Error('the server was closed'))
  }
  return {
    address: `${host}:${port}`,
    port,
    setServing,
    drain(ms) {
      drained ??= new Promise<void>((resolve) => {
        setServing(false)
        server.close()
        const force = setTimeout(() => {
          options.log?.warn({ waitedMs: ms }, 'calls still run at the end of the drain; ending them')
          void close()
        }, ms)
        onIdle = () => {
          clearTimeout(force)
          resolve()
        }
        for (const connection of [...connections]) connection.leave()
        if (connections.size === 0) onIdle()
      })
      return drained
    },
    close,
  }
}

function serve(
  methods: ReadonlyMap<string, ServedMethod>,
  stream: Http2Stream,
  headers: readonly Header[],
  peer: string,
): void {
  const path = headerOf(headers, ':path') ?? ''
  const refuse = (code: status, details: string) => {
    stream.listener = { headers() {}, data() {}, ended() {}, lost() {} }
    stream.sendHeaders([
      [':status', '200'],
      ['content-type', 'application/grpc'],
    ])
    stream.end(trailersOf(statusError(code, details)))
  }
  const refusal = protocolRefusal(path, metadataOf(headers))
  const served = methods.get(path)
  if (headerOf(headers, ':method') !== 'POST') refuse(status.INTERNAL, 'A call must be a POST.')
  else if (refusal !== undefined) refuse(status.FAILED_PRECONDITION, refusal)
  else if (served === undefined) refuse(status.UNIMPLEMENTED, `There is no method ${path} here.`)
  else new BulkServerCall(stream, headers, peer, served.method).run(served.handler)
}

function listen(server: ReturnType<typeof createServer>, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => reject(bindError(host, port, error)))
    server.listen(port, host, () => {
      const address = server.address()
      resolve(typeof address === 'object' && address !== null ? address.port : port)
    })
  })
}
