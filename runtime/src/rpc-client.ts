/**
 * Calls to another process: typed clients, and one helper for each shape of call.
 *
 * Invariants:
 * C1 Every call carries protocol version and trace context, and every failure is a
 *    KvasirError.
 * C2 A call to a peer that cannot be connected to fails within CONNECT_DEADLINE_MS; one
 *    that is cut off in mid-call within two seconds (keepalive).
 * C3 Back-pressure holds both ways: `send` waits for the transport, and a slow reader
 *    makes the peer wait.
 * C4 Leaving a stream's loop, or aborting the signal, cancels the call.
 */
import {
  type CallOptions,
  type Channel,
  type ChannelCredentials,
  type Client,
  type ClientDuplexStream,
  type ClientOptions,
  type ClientReadableStream,
  type ClientUnaryCall,
  type ClientWritableStream,
  connectivityState,
  credentials,
  InterceptingCall,
  type Interceptor,
  Metadata,
  makeGenericClientConstructor,
  type ServiceError,
} from '@grpc/grpc-js'
import { service as healthService } from 'grpc-health-check'
import { deferred, withSignal } from './deferred.js'
import { CancelledError, DeadlineError, InternalError, KvasirError, UnreachableError } from './errors.js'
import { writeCallMetadata } from './rpc-context.js'
import { fromServiceError } from './rpc-errors.js'
import { CLIENT_OPTIONS, CONNECT_DEADLINE_MS, UNARY_DEADLINE_MS } from './rpc-limits.js'
import { messagesOf, writerOf } from './rpc-streams.js'

export interface RpcClientOptions {
  /** HTTP/2 window of the connection; BULK_WINDOW_BYTES where bulk data is received. */
  readonly windowBytes?: number
  /**
   * Clients of one address with the same key (and window) share a connection; different
   * keys never do. Bulk data and control use different keys.
   */
  readonly channelKey?: string
}

export interface CallSettings {
  /** Unary calls without one get UNARY_DEADLINE_MS; streams none. */
  readonly timeoutMs?: number | undefined
  readonly signal?: AbortSignal | undefined
}

type ClientConstructor<C extends Client> = new (
  address: string,
  credentials: ChannelCredentials,
  options?: Partial<ClientOptions>,
) => C

/** What the helpers below need of a client beside its methods. */
export interface CallingClient {
  getChannel(): Pick<Channel, 'getTarget' | 'getConnectivityState'>
  waitForReady(deadline: number, callback: (error?: Error) => void): void
}

const addresses = new WeakMap<CallingClient, string>()

/** Connects when the first call is made. Close it with `client.close()`. */
export function createRpcClient<C extends Client>(
  clientClass: ClientConstructor<C>,
  address: string,
  options: RpcClientOptions = {},
): C {
  const client = new clientClass(address, credentials.createInsecure(), {
    ...CLIENT_OPTIONS,
    // Connections are shared by equal options, so the key in the name keeps them apart.
    'grpc.primary_user_agent': `kvasir-${options.channelKey ?? 'control'}`,
    ...(options.windowBytes === undefined ? {} : { 'grpc-node.flow_control_window': options.windowBytes }),
    interceptors: [addCallMetadata],
  })
  addresses.set(client, address)
  return client
}

const addCallMetadata: Interceptor = (options, nextCall) =>
  new InterceptingCall(nextCall(options), {
    start(metadata, listener, next) {
      writeCallMetadata(metadata)
      next(metadata, listener)
    },
  })

/** The methods of a client by the shape of their call; the overload with metadata tells the types. */
type UnaryMethod<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall
type ServerStreamMethod<Request, Response> = (
  request: Request,
  metadata?: Metadata,
  options?: Partial<CallOptions>,
) => ClientReadableStream<Response>
type ClientStreamMethod<Request, Response> = (
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientWritableStream<Request>
type BidiMethod<Request, Response> = (
  metadata?: Metadata,
  options?: Partial<CallOptions>,
) => ClientDuplexStream<Request, Response>

// `never` and `unknown` here only match shapes; the helpers infer the real types.
type MethodsLike<C, Shape> = { [K in keyof C]: C[K] extends Shape ? K : never }[keyof C] & string
type UnaryName<C> = MethodsLike<C, UnaryMethod<never, unknown>>
type ServerStreamName<C> = MethodsLike<C, ServerStreamMethod<never, unknown>>
type ClientStreamName<C> = MethodsLike<C, ClientStreamMethod<never, unknown>>
type BidiName<C> = MethodsLike<C, BidiMethod<never, unknown>>

type UnaryRequest<M> = M extends UnaryMethod<infer Request, infer _> ? Request : never
type UnaryResponse<M> = M extends UnaryMethod<infer _, infer Response> ? Response : never
type StreamRequest<M> = M extends ServerStreamMethod<infer Request, infer _> ? Request : never
type StreamResponse<M> = M extends ServerStreamMethod<infer _, infer Response> ? Response : never
type ClientStreamRequest<M> = M extends ClientStreamMethod<infer Request, infer _> ? Request : never
type ClientStreamResponse<M> = M extends ClientStreamMethod<infer _, infer Response> ? Response : never
type BidiRequest<M> = M extends BidiMethod<infer Request, infer _> ? Request : never
type BidiResponse<M> = M extends BidiMethod<infer _, infer Response> ? Response : never

/** One request, one answer. */
export function callUnary<C extends CallingClient, N extends UnaryName<C>>(
  client: C,
  method: N,
  request: UnaryRequest<C[N]>,
  settings: CallSettings = {},
): Promise<UnaryResponse<C[N]>> {
  const peer = peerOf(client)
  return new Promise((resolve, reject) => {
    if (settings.signal?.aborted === true) {
      reject(abortError(settings.signal, peer))
      return
    }
    const invoke = client[method] as UnaryMethod<UnaryRequest<C[N]>, UnaryResponse<C[N]>>
    const timeoutMs = settings.timeoutMs ?? UNARY_DEADLINE_MS
    const call = begin(peer, () =>
      invoke.call(client, request, new Metadata(), deadlineIn(timeoutMs), (error, response) => {
        watch.end()
        if (error === null) resolve(response)
        else reject(watch.errorOf(error))
      }),
    )
    const watch = watchCall(client, call, peer, settings.signal)
  })
}

/** One request, a stream of answers. The call begins now, not with the first read. */
export function callServerStream<C extends CallingClient, N extends ServerStreamName<C>>(
  client: C,
  method: N,
  request: StreamRequest<C[N]>,
  settings: CallSettings = {},
): AsyncIterableIterator<StreamResponse<C[N]>> {
  const peer = peerOf(client)
  const invoke = client[method] as ServerStreamMethod<StreamRequest<C[N]>, StreamResponse<C[N]>>
  const stream = begin(peer, () =>
    invoke.call(client, request, new Metadata(), deadlineIn(settings.timeoutMs)),
  )
  const watch = watchCall(client, stream, peer, settings.signal)
  stream.on('error', () => watch.end())
  stream.on('end', () => watch.end())
  return messagesOf<StreamResponse<C[N]>>(stream, {
    errorOf: watch.errorOf,
    onLeave() {
      watch.end()
      stream.cancel()
    },
  })
}

/**
 * A stream of messages, one answer. Each message waits until the transport has taken the one before it (C3). An
 * answer that comes early ends the call, and `messages` is left; what `messages` throws cancels the call and is thrown.
 */
export async function callClientStream<C extends CallingClient, N extends ClientStreamName<C>>(
  client: C,
  method: N,
  messages: AsyncIterable<ClientStreamRequest<C[N]>>,
  settings: CallSettings = {},
): Promise<ClientStreamResponse<C[N]>> {
  const peer = peerOf(client)
  const answer = deferred<ClientStreamResponse<C[N]>>()
  const over = new AbortController()
  const invoke = client[method] as ClientStreamMethod<ClientStreamRequest<C[N]>, ClientStreamResponse<C[N]>>
  const stream = begin(peer, () =>
    invoke.call(client, new Metadata(), deadlineIn(settings.timeoutMs), (error, response) => {
      watch.end()
      if (error === null) answer.resolve(response)
      else answer.reject(watch.errorOf(error))
      over.abort(new CancelledError(`${peer} has ended the call.`, { ids: { peer } }))
    }),
  )
  const watch = watchCall(client, stream, peer, settings.signal)
  const write = writerOf<ClientStreamRequest<C[N]>>(stream, over.signal)
  try {
    for await (const message of untilAborted(messages, over.signal)) await write(message)
    if (!over.signal.aborted) stream.end()
  } catch (error) {
    // Where the call itself is over its answer says why; else the messages failed.
    if (!over.signal.aborted) {
      watch.end()
      stream.cancel()
      throw error
    }
  }
  return answer.promise
}

/** The items until the signal aborts, also while the next one is waited for. */
async function* untilAborted<T>(items: AsyncIterable<T>, signal: AbortSignal): AsyncGenerator<T> {
  const iterator = items[Symbol.asyncIterator]()
  try {
    for (;;) {
      const next = await withSignal(iterator.next(), signal)
      if (next.done === true) return
      yield next.value
    }
  } finally {
    // Not awaited: an item that never comes must not hold the caller.
    iterator.return?.().catch(() => {})
  }
}

export interface BidiCall<Request, Response> {
  /** Resolves when the transport has taken the message; throws the call's error when it is over. */
  send(message: Request): Promise<void>
  /** Says that no more is sent; answers may still come. */
  end(): void
  /** Ends the call from here; `messages` then throws a CancelledError. */
  cancel(): void
  readonly messages: AsyncIterableIterator<Response>
}

/** Streams both ways. */
export function callBidi<C extends CallingClient, N extends BidiName<C>>(
  client: C,
  method: N,
  settings: CallSettings = {},
): BidiCall<BidiRequest<C[N]>, BidiResponse<C[N]>> {
  const peer = peerOf(client)
  const invoke = client[method] as BidiMethod<BidiRequest<C[N]>, BidiResponse<C[N]>>
  const stream = begin(peer, () => invoke.call(client, new Metadata(), deadlineIn(settings.timeoutMs)))
  const over = new AbortController()
  const watch = watchCall(client, stream, peer, settings.signal)
  stream.on('error', (error) => {
    watch.end()
    over.abort(watch.errorOf(error))
  })
  stream.on('end', () => watch.end())
  // After the peer's OK the stream takes no more messages and answers no write.
  stream.on('status', () => over.abort(new CancelledError(`${peer} has ended the call.`, { ids: { peer } })))
  const write = writerOf<BidiRequest<C[N]>>(stream, over.signal)
  return {
    send: write,
    end: () => {
      if (!over.signal.aborted) stream.end()
    },
    cancel: () => stream.cancel(),
    messages: messagesOf<BidiResponse<C[N]>>(stream, {
      errorOf: watch.errorOf,
      onLeave() {
        watch.end()
        stream.cancel()
      },
    }),
  }
}

const HealthClient = makeGenericClientConstructor(healthService, 'grpc.health.v1.Health')

/** Whether the health service of `address` answers SERVING in time; never throws. Uses the control connection. */
export async function checkHealth(address: string, timeoutMs: number): Promise<boolean> {
  const client = createRpcClient(HealthClient, address)
  try {
    const answer: unknown = await new Promise((resolve, reject) => {
      const check = healthService.Check
      if (check === undefined) throw new InternalError('The health service has no Check method.')
      client.makeUnaryRequest(
        check.path,
        check.requestSerialize,
        check.responseDeserialize,
        { service: '' },
        deadlineIn(timeoutMs),
        (error: unknown, response: unknown) => (error === null ? resolve(response) : reject(error)),
      )
    })
    return typeof answer === 'object' && answer !== null && 'status' in answer && answer.status === 'SERVING'
  } catch {
    return false
  } finally {
    client.close()
  }
}

/** A client that was closed throws instead of failing the call. */
function begin<T>(peer: string, invoke: () => T): T {
  try {
    return invoke()
  } catch (error) {
    if (error instanceof KvasirError) throw error
    throw new CancelledError(`The client of ${peer} is closed.`, { ids: { peer }, cause: error })
  }
}

interface CallWatch {
  /** What the transport's error means, knowing why we cancelled if we did. */
  errorOf(error: unknown): KvasirError
  /** The call is over. */
  end(): void
}

/** Cancels the call when the signal aborts or no connection opens in time. */
function watchCall(
  client: CallingClient,
  call: { cancel(): void },
  peer: string,
  signal: AbortSignal | undefined,
): CallWatch {
  let reason: KvasirError | undefined
  let over = false
  const cancel = (why: KvasirError) => {
    if (over) return
    reason ??= why
    call.cancel()
  }
  const onAbort = () => {
    if (signal !== undefined) cancel(abortError(signal, peer))
  }
  if (signal?.aborted === true) queueMicrotask(onAbort)
  else signal?.addEventListener('abort', onAbort, { once: true })

  if (client.getChannel().getConnectivityState(false) !== connectivityState.READY) {
    client.waitForReady(Date.now() + CONNECT_DEADLINE_MS, (error) => {
      if (error === undefined) return
      const message = `${peer} cannot be reached: no connection within ${CONNECT_DEADLINE_MS} ms.`
      cancel(new UnreachableError(message, { ids: { peer }, cause: error }))
    })
  }
  return {
    errorOf: (error) => reason ?? fromServiceError(error, peer),
    end() {
      over = true
      signal?.removeEventListener('abort', onAbort)
    },
  }
}

function abortError(signal: AbortSignal, peer: string): KvasirError {
  const reason: unknown = signal.reason
  if (reason instanceof KvasirError) return reason
  if (reason instanceof Error && reason.name === 'TimeoutError')
    return new DeadlineError(`${peer} did not answer within the deadline.`, { ids: { peer } })
  return new CancelledError(`The call to ${peer} was cancelled.`, { ids: { peer }, cause: reason })
}

function deadlineIn(timeoutMs: number | undefined): Partial<CallOptions> {
  return timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs }
}

function peerOf(client: CallingClient): string {
  return addresses.get(client) ?? client.getChannel().getTarget()
}
