/** A trace as the coordinator returns it, made by hand: prefill on gpu-0, decode on fpga-1. */
import type { TraceSpan } from '../trace/span-tree.js'

const originNs = 1_700_000_000_000_000_000n

/** Times in microseconds since the trace's start. */
export function spanOf(
  spanId: string,
  parentSpanId: string | null,
  name: string,
  instance: string,
  startUs: number,
  endUs: number,
  attributes: TraceSpan['attributes'] = {},
  error?: string,
): TraceSpan {
  return {
    spanId,
    parentSpanId,
    name,
    kind: 'internal',
    service: instance === '' ? 'coordinator' : `${instance.split('-')[0]}-agent`,
    instance: instance === '' ? 'coordinator-a' : instance,
    startUnixNano: String(originNs + BigInt(startUs * 1000)),
    endUnixNano: String(originNs + BigInt(endUs * 1000)),
    attributes,
    events: [],
    status: error === undefined ? { code: 'unset', message: '' } : { code: 'error', message: error },
  }
}

export const wholeTrace = {
  traceId: '0af7651916cd43dd8448eb211c80319c',
  requestId: 'req-1',
  spans: [
    spanOf('d2', 'd', 'decode.run', 'fpga-1', 41_000, 99_000, {
      'kvasir.tokens': 15,
      'kvasir.decode.token_us': [4_000, 8_000],
    }),
    spanOf('r', 'outside', 'request', '', 0, 100_000, {
      'gen_ai.request.model': 'skald',
      'gen_ai.usage.input_tokens': 64,
      'gen_ai.usage.output_tokens': 16,
    }),
    spanOf('a', 'r', 'prepare', '', 200, 1_200, { 'kvasir.tokens': 64 }),
    spanOf('b', 'r', 'place', '', 1_300, 1_350, { 'kvasir.placement.reason': 'GPU prefills, FPGA decodes.' }),
    spanOf('p', 'r', 'prefill', '', 5_000, 40_000, { 'kvasir.device_id': 'gpu-0' }),
    spanOf('p1', 'p', 'prefill.run', 'gpu-0', 6_000, 38_000, {
      'kvasir.tokens': 64,
      'kvasir.prefill.layer_us': [16_000, 32_000],
    }),
    spanOf('p2', 'p', 'kv.send', 'gpu-0', 22_000, 39_500, {
      'kvasir.kv.bytes': 196_608,
      'kvasir.kv.chunks': 2,
      'kvasir.kv.bytes_per_second': 21_000_000,
      'kvasir.kv.overlap': 0.84,
      'kvasir.kv.chunk_sent_us': [100, 16_000],
      'kvasir.kv.chunk_acked_us': [8_000, 17_500],
    }),
    spanOf('d', 'r', 'decode', '', 5_100, 99_500, { 'kvasir.device_id': 'fpga-1' }),
    spanOf('d1', 'd', 'kv.receive', 'fpga-1', 21_000, 40_000, { 'kvasir.kv.bytes': 196_608 }),
  ],
}
