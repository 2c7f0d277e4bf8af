import { expect, test } from 'vitest'
import { spanOf, wholeTrace } from '../testing/spans.js'
import { drawBar, drawTree } from './draw-tree.js'

const plain = { barCells: 20, highlight: (line: string) => `! ${line}` }

test('a request is drawn as a tree with times and bars', () => {
  expect(`\n${drawTree(wholeTrace.spans, plain).join('\n')}\n`).toMatchInlineSnapshot(`
    "
    request            coordinator     +0 µs   100 ms  ████████████████████  skald, 64 tokens in, 16 tokens out
    ├─ prepare         coordinator   +200 µs  1.00 ms  ▎                     64 tokens
    ├─ place           coordinator  +1.30 ms    50 µs  ▏                     GPU prefills, FPGA decodes.
    ├─ prefill         coordinator  +5.00 ms  35.0 ms   ███████              → gpu-0
    │  ├─ prefill.run  gpu-0        +6.00 ms  32.0 ms   ▉█████▋              64 tokens
    │  └─ kv.send      gpu-0        +22.0 ms  17.5 ms      ▋██▉              197 kB, 2 chunks, 21.0 MB/s, 84 % hidden behind prefill
    └─ decode          coordinator  +5.10 ms  94.4 ms   ██████████████████▉  → fpga-1
       ├─ kv.receive   fpga-1       +21.0 ms  19.0 ms      ▉███              197 kB
       └─ decode.run   fpga-1       +41.0 ms  58.0 ms          ▉██████████▊  15 tokens
    "
  `)
})

test('a span that failed is highlighted with its reason', () => {
  const spans = [
    spanOf('r', null, 'request', '', 0, 1_000),
    spanOf('p', 'r', 'prefill', '', 0, 500, { 'kvasir.device_id': 'gpu-0' }, 'gpu-0 is lost'),
  ]
  expect(drawTree(spans, { ...plain, barCells: 0 })).toEqual([
    'request     coordinator  +0 µs  1.00 ms',
    '! └─ prefill  coordinator  +0 µs   500 µs  → gpu-0, failed: gpu-0 is lost',
  ])
})

test('no span, and a span without duration, can be drawn', () => {
  expect(drawTree([], plain)).toEqual([])
  expect(drawTree([spanOf('r', null, 'request', '', 0, 0)], plain)).toHaveLength(1)
  expect(drawBar(0, 0, 0, 4)).toBe('▏   ')
})
