import fc from 'fast-check'
import { expect, it } from 'vitest'
import { ReadyBlocks } from './ready-blocks.js'

const LAYERS = 3

it('gives every wanted block and its bounds once, in order, and nothing before it is computed', () => {
  const steps = fc.array(
    fc.record({
      layer: fc.nat({ max: LAYERS - 1 }),
      tokens: fc.nat({ max: 100 }),
      take: fc.integer({ min: 32, max: 200 }),
    }),
    { maxLength: 40 },
  )
  const wishes = fc.record({
    tokens: fc.integer({ min: 1, max: 90 }),
    firstBlock: fc.nat({ max: 6 }),
    blockBytes: fc.constantFrom(0, 32),
    boundsBytes: fc.constantFrom(0, 2),
    mergeLayers: fc.constantFrom(1, 2, 4),
  })
  fc.assert(
    fc.property(wishes, steps, ({ tokens, blockBytes, boundsBytes, mergeLayers, ...rest }, turns) => {
      const blocks = Math.ceil(tokens / 16)
      const firstBlock = Math.min(rest.firstBlock, blocks)
      const ready = new ReadyBlocks({
        ...{ layers: LAYERS, tokens, firstBlock, blockBytes, boundsBytes, mergeLayers },
      })
      const computed = new Array<number>(LAYERS).fill(0)
      const next = {
        kv: new Array<number>(LAYERS).fill(firstBlock),
        bounds: new Array<number>(LAYERS).fill(firstBlock),
      }
      const take = (bytesMax: number) => {
        let bytes = 0
        const pending = ready.pendingBytes
        for (const { layer, first, count, bounds } of ready.take(bytesMax)) {
          const plane = bounds ? next.bounds : next.kv
          expect(first).toBe(plane[layer])
          plane[layer] = first + count
          // What no layer of the group has to wait for.
          const group = layer - (layer % mergeLayers)
          const together = Math.min(...computed.slice(group, group + mergeLayers))
          expect(Math.min((first + count) * 16, tokens)).toBeLessThanOrEqual(together)
          bytes += count * (bounds ? boundsBytes : blockBytes)
        }
        expect(bytes).toBeLessThanOrEqual(bytesMax)
        expect(ready.pendingBytes).toBe(pending - bytes)
        expect(bytes > 0).toBe(pending > 0)
      }
      for (const turn of turns) {
        computed[turn.layer] = Math.max(computed[turn.layer] ?? 0, turn.tokens)
        ready.computed(turn.layer, turn.tokens)
        take(turn.take)
      }
      computed.fill(tokens)
      for (let layer = 0; layer < LAYERS; layer += 1) ready.computed(layer, tokens)
      while (ready.pendingBytes > 0) take(64)
      expect(ready.exhausted).toBe(true)
      const pages = Math.max(firstBlock, Math.floor(tokens / 16))
      if (blockBytes > 0) expect(next.kv).toEqual(new Array(LAYERS).fill(blocks))
      if (boundsBytes > 0) expect(next.bounds).toEqual(new Array(LAYERS).fill(pages))
    }),
  )
})

it('releases what is computed, though its group is not', () => {
  const sizes = { layers: 4, tokens: 64, firstBlock: 0, blockBytes: 100, boundsBytes: 0, mergeLayers: 2 }
  const ready = new ReadyBlocks(sizes)
  ready.computed(0, 64)
  expect([ready.pendingBytes, ready.computedBytes]).toEqual([0, 400])
  ready.computed(1, 32)
  // Two blocks of both layers of the group, in one go.
  expect(ready.take(1_000)).toEqual([
    { layer: 0, first: 0, count: 2, bounds: false },
    { layer: 1, first: 0, count: 2, bounds: false },
  ])
  expect([ready.pendingBytes, ready.computedBytes]).toEqual([0, 200])
  ready.release()
  expect(ready.take(1_000)).toEqual([{ layer: 0, first: 2, count: 2, bounds: false }])
  expect(ready.exhausted).toBe(false)
})
