import { expect, test } from 'vitest'
import { spanOf, wholeTrace } from '../testing/spans.js'
import { toPerfetto } from './perfetto.js'

test('each process is one group, each span one slice on a track where it nests', () => {
  const { traceEvents } = toPerfetto(wholeTrace)
  const names = traceEvents.filter((event) => event.name === 'process_name').map((event) => event.args?.name)
  expect(names).toEqual(['coordinator', 'gpu-0', 'fpga-1'])
  const slices = traceEvents.filter((event) => event.ph === 'X' && !event.name.startsWith('layer'))
  expect(slices.map(({ name, pid, tid, ts, dur }) => [name, pid, tid, ts, dur])).toEqual([
    ['request', 1, 1, 0, 100_000],
    ['prepare', 1, 1, 200, 1_000],
    ['place', 1, 1, 1_300, 50],
    ['prefill', 1, 1, 5_000, 35_000],
    ['prefill.run', 2, 1, 6_000, 32_000],
    ['kv.send', 2, 2, 22_000, 17_500],
    ['decode', 1, 2, 5_100, 94_400],
    ['kv.receive', 3, 1, 21_000, 19_000],
    ['decode.run', 3, 1, 41_000, 58_000],
  ])
})

test('layers, chunks and tokens are on the clock of their span', () => {
  const { traceEvents } = toPerfetto(wholeTrace)
  const layers = traceEvents.filter((event) => event.name.startsWith('layer'))
  expect(layers.map(({ ts, dur }) => [ts, dur])).toEqual([
    [6_000, 16_000],
    [22_000, 16_000],
  ])
  const chunks = traceEvents.filter((event) => event.cat === 'kv')
  expect(chunks.map(({ ph, name, ts }) => [ph, name, ts])).toEqual([
    ['b', 'chunk 0', 22_100],
    ['e', 'chunk 0', 30_000],
    ['b', 'chunk 1', 38_000],
    ['e', 'chunk 1', 39_500],
  ])
  expect(traceEvents.filter((event) => event.ph === 'i').map((event) => event.ts)).toEqual([45_000, 49_000])
})

test('an error is in the arguments of its slice', () => {
  const spans = [spanOf('r', null, 'request', '', 0, 10, {}, 'no device is free')]
  const slice = toPerfetto({ traceId: 't', requestId: 'r', spans }).traceEvents.find(
    (event) => event.ph === 'X',
  )
  expect(slice?.args).toMatchObject({ error: 'no device is free' })
})
