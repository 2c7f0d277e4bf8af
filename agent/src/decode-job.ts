/**
 * One Decode call: a sequence under a lease, from the prompt's KV to its last token.
 *
 * The KV comes from another device, which also sampled the first token and sent it to
 * the coordinator, so this stream begins with the token after it; or this device
 * prefills the prompt, and the stream begins with the first. Another device may attend for it
 * (attend-decode.ts).
 *
 * Invariants:
 * D1 The stream says started, tokens in order each once, finished.
 * D2 However the call ends, the sequence ends with it, its lease too (I4).
 * D3 A consumer that does not read ends its own sequence, never slows another.
 */
import { Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { DecodeRequest, DecodeResponse } from '@kvasir/proto/kvasir/inference/v1/inference'
import { KvasirError } from '@kvasir/runtime/errors'
import type { CallContext, Send } from '@kvasir/runtime/rpc-server'
import { ATTRIBUTE } from '@kvasir/runtime/telemetry-names'
import { coreOffload, DecodeAttention } from './attend-decode.js'
import { checkAttentionAble } from './capabilities.js'
import { fetchForDecode, receiveForDecode } from './decode-kv.js'
import { DecodeOutbox } from './decode-outbox.js'
import { DecodeOwner } from './decode-owner.js'
import { ableDriver, type Device, requestedModel } from './device.js'
import { RefusedByCore } from './device-runner.js'
import { checkAttentionRequest } from './offload-request.js'
import { fetchableTokens, hashesOf, localReuse } from './prefix-reuse.js'
import { checkDecode, checkIdentity } from './validation.js'

export async function runDecode(
  device: Device,
  request: DecodeRequest,
  call: CallContext,
  send: Send<DecodeResponse>,
): Promise<void> {
  const driver = ableDriver(device, Capability.DECODE)
  const identity = checkIdentity(request.sequence, 'DecodeRequest')
  const served = requestedModel(device, identity)
  const { lease, sampling, source } = checkDecode(request, served.model)
  const attends = checkAttentionRequest(request, device.deviceId)
  checkAttentionAble(driver, attends)
  const { runner } = served
  const { tokens, firstIndex } = request
  const { requestId, epoch, tenantSalt } = identity
  const { counter } = lease
  const id = runner.newSequenceId()
  const hashes = hashesOf(served, tenantSalt, tokens, request.reuse)
  const fetchTokens = source === undefined ? fetchableTokens(device, request.prefix, hashes) : 0
  const attributes = {
    [ATTRIBUTE.requestId]: requestId,
    [ATTRIBUTE.epoch]: epoch,
    [ATTRIBUTE.deviceId]: device.deviceId,
    ...(served.pace === undefined ? {} : { [ATTRIBUTE.pace]: served.pace.name }),
  }
  const outbox = new DecodeOutbox(device.limits.outboxTokensMax)
  const attention = new DecodeAttention(runner, id, attends, served.model.layers)
  const prompt = { prefillsHere: source === undefined, tokens: tokens.length }
  const owner = new DecodeOwner(device, served, id, outbox, attention, attributes, prompt)
  const onGone = () => runner.cancel(id)
  try {
    const answer = runner.begin(
      {
        id,
        tokens: [...tokens],
        firstIndex,
        sampling,
        stopTokens: new Set(request.sampling?.stopTokens),
        ...(request.replay === undefined ? {} : { replay: request.replay.tokens }),
        // A block's name says nothing of attention: what is generated with another kind than dense here has other KV.
        hashes: attention.isPlain ? hashes : undefined,
        owner,
      },
      {
        type: 'decode',
        sequence: id,
        lease,
        requestId,
        epoch,
        promptTokens: tokens.length,
        firstIndex,
        tokensMax: request.maxTokens,
        kv: source === undefined ? 'computed' : 'pulled',
        hashes: hashes?.prompt ?? [],
        fetchTokens,
        offload: coreOffload(attends),
      },
    )
    if (answer?.type !== 'attached') throw new Error('The core did not answer Decode')
    call.signal.addEventListener('abort', onGone, { once: true })
    if (call.signal.aborted) onGone()
    const { cachedTokens } = answer
    const kv = { device, served, id, request, counter, cachedTokens, hashes, owner, attributes }
    owner.reuse = localReuse(cachedTokens)
    attention.begin({ ...kv, identity, hashes: hashes?.prompt, parent: owner.parent })
    if (source !== undefined) void receiveForDecode(kv, source)
    else if (fetchTokens > cachedTokens) void fetchForDecode(kv)
    for await (const message of outbox) await send(message)
  } catch (thrown) {
    const error = thrown instanceof RefusedByCore ? served.refusal(thrown.reason) : KvasirError.from(thrown)
    owner.close(error)
    throw error
  } finally {
    call.signal.removeEventListener('abort', onGone)
    runner.cancel(id)
    owner.close()
  }
}
