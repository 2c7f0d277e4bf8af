import { expect, test } from 'vitest'
import { spanOf, wholeTrace } from '../testing/spans.js'
import { kvTransferOf } from './kv-overlap.js'

test('what comes after prefill is exposed, the rest is hidden', () => {
  // Sent from 22.1 to 30 and 38 to 39.5 ms; prefill ended at 38 ms.
  const transfer = kvTransferOf(wholeTrace.spans)
  expect(transfer).toMatchObject({
    prefillMs: 32,
    transferMs: 9.4,
    exposedMs: 1.5,
    bytes: 196_608,
    chunks: 2,
  })
  expect(transfer?.overlap).toBeCloseTo(1 - 1.5 / 9.4, 10)
})

test('one push after prefill hides nothing', () => {
  const spans = [
    spanOf('p1', 'p', 'prefill.run', 'gpu-0', 0, 1_000),
    spanOf('p2', 'p', 'kv.send', 'gpu-0', 1_000, 3_000, {
      'kvasir.kv.chunk_sent_us': [0, 10],
      'kvasir.kv.chunk_acked_us': [1_000, 2_000],
    }),
  ]
  expect(kvTransferOf(spans)).toMatchObject({ transferMs: 2, exposedMs: 2, overlap: 0 })
})

test('a trace without a transfer, or with half of one, has no figure', () => {
  expect(kvTransferOf([])).toBeUndefined()
  const half = spanOf('p2', 'p', 'kv.send', 'gpu-0', 0, 10, { 'kvasir.kv.chunk_sent_us': [0] })
  expect(kvTransferOf([half, spanOf('p1', 'p', 'prefill.run', 'gpu-0', 0, 10)])).toBeUndefined()
})
