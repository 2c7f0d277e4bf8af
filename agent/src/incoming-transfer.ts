/**
 * The receiver's side of one KV transfer: opens the Pull, checks every chunk, writes it
 * where it belongs and acknowledges it.
 *
 * Invariants:
 * G1 Nothing is written that was not checked (chunk-writer.ts).
 * G2 A chunk is acknowledged when it is written, in order.
 * G3 When `pullKv` settles no write is under way.
 * G4 Its errors name the device they come from: CorruptDataError where data is damaged,
 *    else UnreachableError, unless this side gave up itself.
 */
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import {
  type Lease,
  PullContent,
  type PullEnd,
  type PullManifest,
  type PullResponse,
  PullTiming,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import type { Clock } from '@kvasir/runtime/clock'
import { withDeadline } from '@kvasir/runtime/deferred'
import {
  CorruptDataError,
  DeadlineError,
  KvasirError,
  NotFoundError,
  UnreachableError,
} from '@kvasir/runtime/errors'
import type { KvPullClient } from '@kvasir/runtime/kv-bulk'
import { type BidiCall, callBidi } from '@kvasir/runtime/rpc-client'
import type { KvShape } from './block-holder.js'
import { ChunkWriter, type ExpectedBlocks, WriteFailed, type WriteRun } from './chunk-writer.js'
import { blocksForTokens } from './core/block-allocator.js'
import { hashBytes, variantKey } from './kv-index.js'
import type { Pacer } from './pacer.js'

/** How long the source may take to end its side once everything is here. */
const END_MS = 5_000

/** What is asked for: the blocks of a sequence from one of them on, or cached ones by hash. */
export type WantedKv =
  | {
      readonly transferId: string
      readonly timing: PullTiming
      /** Tokens of the sequence whose KV is sent. */
      readonly tokens: number
      /** Blocks before this one are here. */
      readonly firstBlock: number
      readonly content: PullContent
      /** Layers to be sent together; undefined for the source's setting. */
      readonly mergeLayers?: number | undefined
    }
  | { readonly hashes: readonly string[] }

export interface IncomingOptions {
  readonly client: KvPullClient
  readonly sourceDeviceId: string
  readonly wanted: WantedKv
  readonly shape: KvShape
  /** Of this side; for the source it is only a name. */
  readonly lease: Lease
  readonly windowBytes: number
  readonly write: WriteRun
  readonly clock: Clock
  /** At whose rate chunks are taken from a source that does not hold itself to one; undefined: as they come. */
  readonly link?: Pacer | undefined
  /** Longest silence of the source, prefill's queue included. */
  readonly silenceMs: number
  /** Aborts when the sequence ends on this side. */
  readonly signal: AbortSignal
}

export interface ReceivedKv {
  readonly bytes: number
  readonly chunks: number
  /** Blocks of the sequence that are here now, those that were before included; for cached ones: leading ones received. */
  readonly blocks: number
  /** Layers that were sent together; 0 where the source does not tell. */
  readonly mergeLayers: number
  /** From the first chunk to the last, microseconds. */
  readonly elapsedUs: number
  readonly firstToken: number
}

export async function pullKv(options: IncomingOptions): Promise<ReceivedKv> {
  // Once everything is here the source may end its side, whatever becomes of the sequence.
  const leaving = new AbortController()
  const leave = () => leaving.abort(options.signal.reason)
  if (options.signal.aborted) leave()
  else options.signal.addEventListener('abort', leave, { once: true })
  const call = callBidi(options.client, 'pull', { signal: leaving.signal })
  const writer = new ChunkWriter({
    layers: options.shape.layers,
    write: options.write,
    clock: options.clock,
    written: (sequence) => call.send({ message: { $case: 'ack', value: { sequence } } }),
    corrupt: (what) => corrupt(what, options),
  })
  try {
    await call.send({ message: { $case: 'open', value: openOf(options) } })
    const { end, blocks, mergeLayers } = await readMessages(call.messages, options, writer)
    await writer.finished()
    const { chunks, bytes } = writer
    if (!writer.isWhole || end.chunks !== BigInt(chunks) || end.bytes !== BigInt(bytes)) {
      throw corrupt(`The source ended after ${chunks} chunks, but blocks are missing`, options)
    }
    call.end()
    void drainRest(call)
    return { bytes, chunks, blocks, mergeLayers, elapsedUs: writer.elapsedUs, firstToken: end.firstToken }
  } catch (thrown) {
    call.cancel()
    await writer.finished().catch(() => {})
    options.signal.throwIfAborted()
    throw sourceError(thrown, options)
  } finally {
    options.signal.removeEventListener('abort', leave)
  }
}

function openOf({ wanted, shape, lease, windowBytes }: IncomingOptions) {
  const common = { receiverLease: lease, windowBytes: BigInt(windowBytes) }
  if ('hashes' in wanted) {
    const { modelDigest, variant } = shape
    const cached = { modelDigest, variant, hashes: wanted.hashes.map(hashBytes) }
    return { ...common, transferId: '', timing: PullTiming.LAYERED, cached }
  }
  const { transferId, timing, firstBlock, content, mergeLayers } = wanted
  return { ...common, transferId, timing, firstBlock, content, mergeLayers }
}

async function readMessages(
  messages: AsyncIterableIterator<PullResponse>,
  options: IncomingOptions,
  writer: ChunkWriter,
): Promise<{ readonly end: PullEnd; readonly blocks: number; readonly mergeLayers: number }> {
  let blocks: number | undefined
  let mergeLayers = 0
  let link: Pacer | undefined
  for (;;) {
    const next = await withDeadline(messages.next(), options.silenceMs, 'waiting for KV')
    if (next.done === true) throw corrupt('The transfer stopped without an end', options)
    const { message } = next.value
    switch (message?.$case) {
      case 'manifest':
        checkManifest(message.value, options)
        blocks = expectBlocks(message.value, options, writer)
        mergeLayers = message.value.mergeLayers ?? 0
        if (message.value.paced !== true) link = options.link
        break
      case 'chunk':
        if (blocks === undefined) throw corrupt('A chunk came before the manifest', options)
        await link?.transmit(message.value.data.byteLength * (options.shape.linkFactor ?? 1), options.signal)
        writer.write(message.value)
        break
      case 'end':
        return { end: message.value, blocks: blocks ?? 0, mergeLayers }
      default:
        throw corrupt('A message of the transfer is empty', options)
    }
  }
}

function checkManifest(manifest: PullManifest, options: IncomingOptions): void {
  const { shape, wanted } = options
  const { tokens, blocks, variant } = manifest
  const asked = 'hashes' in wanted ? wanted.hashes.length : undefined
  const wrong =
    manifest.modelDigest !== shape.modelDigest
      ? 'another model'
      : manifest.blockTokens !== BLOCK_TOKENS
        ? `blocks of ${manifest.blockTokens} tokens`
        : variant === undefined || variantKey(variant) !== variantKey(shape.variant)
          ? 'blocks of another variant'
          : asked !== undefined && (blocks === undefined || blocks < 1 || blocks > asked)
            ? `${blocks} blocks where ${asked} were asked for`
            : 'tokens' in wanted && tokens !== wanted.tokens
              ? `${tokens} tokens instead of ${wanted.tokens}`
              : undefined
  if (wrong !== undefined) throw corrupt(`The source announces ${wrong}`, options)
}

/** Tells the writer what will come; returns how many blocks the sequence has, or will be sent of those asked for. */
function expectBlocks(manifest: PullManifest, options: IncomingOptions, writer: ChunkWriter): number {
  const { wanted, shape } = options
  const cached = 'hashes' in wanted
  const firstBlock = cached ? 0 : wanted.firstBlock
  const content = cached ? PullContent.KV : wanted.content
  const tokens = cached ? (manifest.blocks ?? 0) * BLOCK_TOKENS : wanted.tokens
  const blocks = blocksForTokens(tokens)
  const expected = (unitBytes: number, count: number): ExpectedBlocks => ({
    unitBytes,
    firstBlock,
    blocks: Math.max(count, firstBlock),
  })
  const bounds = content === PullContent.BOUNDS || content === PullContent.KV_AND_BOUNDS
  writer.expect(
    content === PullContent.BOUNDS ? undefined : expected(shape.blockLayerBytes, blocks),
    bounds ? expected(shape.boundsBytes, Math.floor(tokens / BLOCK_TOKENS)) : undefined,
  )
  return blocks
}

/** Lets the stream come to its end, so that the transport forgets it. */
async function drainRest({ messages, cancel }: BidiCall<unknown, PullResponse>): Promise<void> {
  const rest = async () => {
    while ((await messages.next()).done !== true);
  }
  // Everything is here; how the source ends its side no longer matters.
  await withDeadline(rest(), END_MS, 'waiting for the end of a transfer').catch(cancel)
}

function corrupt(what: string, options: IncomingOptions): CorruptDataError {
  const ids = idsOf(options)
  return new CorruptDataError(`${what} (from device ${options.sourceDeviceId}); ${adviceFor(options)}.`, {
    ids,
  })
}

function adviceFor({ wanted }: IncomingOptions): string {
  return 'hashes' in wanted ? 'compute the blocks instead' : 'place the request anew'
}

function idsOf({ sourceDeviceId, wanted }: IncomingOptions): Record<string, string> {
  const transfer = 'transferId' in wanted ? { transferId: wanted.transferId } : {}
  return { deviceId: sourceDeviceId, ...transfer }
}

/** Whatever ended the transfer, as a fault of the source, so that the coordinator knows whom to avoid. */
function sourceError(thrown: unknown, options: IncomingOptions): KvasirError {
  const { sourceDeviceId } = options
  if (thrown instanceof WriteFailed) return KvasirError.from(thrown.cause)
  const error = KvasirError.from(thrown)
  const ids = { ...idsOf(options), sourceCode: error.code }
  if (error instanceof CorruptDataError) return new CorruptDataError(error.message, { ids, cause: error })
  if (error instanceof NotFoundError && 'hashes' in options.wanted) return error
  const what =
    error instanceof DeadlineError ? 'sent no KV for too long' : `could not send the KV (${error.message})`
  return new UnreachableError(`Device ${sourceDeviceId} ${what}; ${adviceFor(options)}.`, {
    ids,
    cause: error,
  })
}
