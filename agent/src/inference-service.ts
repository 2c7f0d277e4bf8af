/** InferenceService as gRPC sees it, with one line in the log for each call, under its trace. */
import type { InferenceServiceServer, SequenceIdentity } from '@kvasir/proto/kvasir/inference/v1/inference'
import { KvasirError } from '@kvasir/runtime/errors'
import { serverStream } from '@kvasir/runtime/rpc-server'
import { runDecode } from './decode-job.js'
import type { Device } from './device.js'
import { runPrefill } from './prefill-job.js'

export function inferenceService(device: Device): InferenceServiceServer {
  return {
    prefill: serverStream((request, call, send) =>
      logged(device, 'prefill', request, () => runPrefill(device, request, call, send)),
    ),
    decode: serverStream((request, call, send) =>
      logged(device, 'decode', request, () => runDecode(device, request, call, send)),
    ),
  }
}

async function logged(
  { log, clock }: Device,
  what: 'prefill' | 'decode',
  request: { readonly sequence?: SequenceIdentity | undefined; readonly tokens: readonly number[] },
  run: () => Promise<void>,
): Promise<void> {
  const startedAtMs = clock.nowMs()
  const facts = () => ({
    requestId: request.sequence?.requestId,
    epoch: request.sequence?.epoch,
    tokens: request.tokens.length,
    durationMs: Math.round(clock.nowMs() - startedAtMs),
  })
  try {
    await run()
    log.info(facts(), `${what} finished`)
  } catch (thrown) {
    const { code, message } = KvasirError.from(thrown)
    if (code === 'cancelled') log.info(facts(), `${what} cancelled`)
    else log.warn({ ...facts(), code }, `${what} failed: ${message}`)
    throw thrown
  }
}
