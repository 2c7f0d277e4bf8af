import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { blockHashes, rootHash } from './block-hash.js'

const hex = (hashes: Uint8Array[]) => hashes.map((hash) => Buffer.from(hash).toString('hex'))

describe('block hashes', () => {
  it('do not change from one version to the next', () => {
    const tokens = Array.from({ length: 40 }, (_, i) => i)
    expect(hex(blockHashes(rootHash('ab'.repeat(32), '', ''), tokens))).toMatchInlineSnapshot(`
      [
        "da8a0b4818305f0f47d98041e169cd65",
        "18cea59ba78a6221f62b107faab26380",
      ]
    `)
  })

  it('name full blocks only, 16 bytes each, by all the tokens before them', () => {
    const root = rootHash('digest', '', '')
    const tokens = fc.array(fc.nat(200_000), { maxLength: 100 })
    fc.assert(
      fc.property(tokens, tokens, (a, b) => {
        const hashesA = hex(blockHashes(root, a))
        const hashesB = hex(blockHashes(root, Uint32Array.from(b)))
        expect(hashesA).toHaveLength(Math.floor(a.length / 16))
        for (const [i, hash] of hashesA.entries()) {
          expect(hash).toHaveLength(32)
          const sameText = a.slice(0, (i + 1) * 16).join() === b.slice(0, (i + 1) * 16).join()
          expect(hash === hashesB[i]).toBe(sameText)
        }
      }),
    )
  })

  it('go on from the hash of the block before', () => {
    const root = rootHash('digest', '', '')
    const tokens = Array.from({ length: 64 }, (_, i) => i * 7)
    const whole = blockHashes(root, tokens)
    expect(blockHashes(whole[1] ?? root, tokens.slice(32))).toEqual(whole.slice(2))
  })

  it('are shared by nobody with another model, adapter or salt', () => {
    const roots = [
      rootHash('a', 'b', 'c'),
      rootHash('ab', '', 'c'),
      rootHash('a', 'bc', ''),
      rootHash('a', '', 'bc'),
    ]
    expect(new Set(hex(roots)).size).toBe(roots.length)
  })
})
