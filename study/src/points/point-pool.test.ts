import { InternalError, InvalidInputError } from '@kvasir/runtime/errors'
import { afterEach, expect, test } from 'vitest'
import { quietContext } from '../testing/quiet-context.js'
import type { SampleInput } from '../testing/sample-point.js'
import { PointPool, type PointPoolOptions } from './point-pool.js'

const sample = new URL('../testing/sample-point.js', import.meta.url)
const pools: PointPool[] = []

function poolOf(options: Partial<PointPoolOptions> = {}): PointPool {
  const pool = new PointPool({ workers: 2, signal: new AbortController().signal, ...options })
  pools.push(pool)
  return pool
}

function run(pool: PointPool, inputs: readonly SampleInput[]): Promise<readonly unknown[]> {
  return pool.points<SampleInput, unknown>(sample, inputs, 'samples')
}

afterEach(async () => {
  await Promise.all(pools.splice(0).map((pool) => pool.close()))
})

const doubles = (values: readonly number[]): SampleInput[] =>
  values.map((value) => ({ kind: 'double', value }))

test('results are in the order of the inputs', async () => {
  const values = Array.from({ length: 50 }, (_, index) => index)
  expect(await run(poolOf(), doubles(values))).toEqual(values.map((value) => value * 2))
})

test('no inputs need no thread', async () => {
  expect(await run(poolOf(), [])).toEqual([])
})

test('points run side by side, and never more than there are workers, over several calls too', async () => {
  const counters = new SharedArrayBuffer(8)
  const meet: SampleInput = { kind: 'meet', counters, others: 1 }
  const pool = poolOf({ workers: 2 })
  expect(await Promise.all([run(pool, [meet]), run(pool, [meet])])).toEqual([[true], [true]])
  expect(new Int32Array(counters)[1]).toBe(2)
  const alone = new SharedArrayBuffer(8)
  const three: SampleInput[] = [1, 2, 3].map(() => ({ kind: 'meet', counters: alone, others: 0 }))
  expect(await run(poolOf({ workers: 1 }), three)).toEqual([true, true, true])
})

test('an error of a point arrives with its class, its message and what it is about', async () => {
  const pool = poolOf()
  const refused = run(pool, [{ kind: 'refuse' }])
  await expect(refused).rejects.toBeInstanceOf(InvalidInputError)
  await expect(refused).rejects.toMatchObject({
    message: 'The bandwidth is negative: write one above 0.',
    code: 'invalid_input',
    param: 'bandwidth',
  })
  await expect(run(pool, [{ kind: 'overflow' }])).rejects.toBeInstanceOf(RangeError)
  // The pool goes on.
  expect(await run(pool, doubles([4]))).toEqual([8])
})

test('a failing point ends its call, though others of it still run', async () => {
  const pool = poolOf()
  await expect(run(pool, [{ kind: 'forever' }, { kind: 'refuse' }, { kind: 'forever' }])).rejects.toThrow(
    'negative',
  )
  const counters = new SharedArrayBuffer(8)
  const meet: SampleInput = { kind: 'meet', counters, others: 1 }
  // Both threads are free again.
  expect(await run(pool, [meet, meet])).toEqual([true, true])
})

test('a thread that is lost, and what cannot be sent, fail the point and not the process', async () => {
  const pool = poolOf({ workers: 1 })
  await expect(run(pool, [{ kind: 'exit' }])).rejects.toBeInstanceOf(InternalError)
  await expect(run(pool, [{ kind: 'unclonable' }])).rejects.toThrow('could not be cloned')
  const input = { kind: 'double', value: 1, extra: () => 0 }
  await expect(pool.points(sample, [input], 'samples')).rejects.toThrow('could not be cloned')
  expect(await run(pool, doubles([2]))).toEqual([4])
  await expect(pool.points(new URL('./no-such-file.js', import.meta.url), [1], 'x')).rejects.toThrow(
    'no-such-file',
  )
})

test('a stop keeps what is done, ends what runs, and counts what is left out', async () => {
  const stop = new AbortController()
  const pool = poolOf({
    workers: 1,
    signal: stop.signal,
    graceMs: 10,
    onProgress: ({ done }) => {
      if (done === 2) stop.abort()
    },
  })
  const inputs: SampleInput[] = [...doubles([1, 2]), { kind: 'forever' }, ...doubles([3])]
  expect(await run(pool, inputs)).toEqual([2, 4, undefined, undefined])
  expect(pool.skipped).toBe(2)
  expect(await run(pool, doubles([5]))).toEqual([undefined])
  expect(pool.skipped).toBe(3)
})

test('close ends points that run', async () => {
  const pool = poolOf()
  const results = run(pool, [{ kind: 'forever' }])
  await pool.close()
  expect(await results).toEqual([undefined])
})

test('progress counts what running points tell', async () => {
  const shares: number[] = []
  const pool = poolOf({ workers: 1, onProgress: ({ share }) => shares.push(share) })
  await run(pool, [{ kind: 'tell' }, { kind: 'tell' }])
  expect(shares).toEqual([0, 0.25, 0.5, 0.75, 1])
})

test('tests compute the same points in their own process', async () => {
  const context = quietContext()
  expect(await context.points(sample, doubles([1, 2]), 'samples')).toEqual([2, 4])
  await expect(context.points(sample, [{ kind: 'refuse' }], 'samples')).rejects.toBeInstanceOf(
    InvalidInputError,
  )
})
