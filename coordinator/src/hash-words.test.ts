import fc from 'fast-check'
import { expect, test } from 'vitest'
import { bytesFromHashes, hashesFromBase64, hashesFromBytes } from './hash-words.js'

const anyHashes = fc.array(fc.uint8Array({ minLength: 16, maxLength: 16 }))

test('hashes are the same whichever way they came, and give back their bytes', () => {
  fc.assert(
    fc.property(anyHashes, (hashes) => {
      const words = hashesFromBytes(hashes)
      expect(bytesFromHashes(words)).toEqual(hashes.map((hash) => Buffer.from(hash)))
      expect(hashesFromBase64(hashes.map((hash) => Buffer.from(hash).toString('base64')))).toEqual(words)
    }),
  )
})

test('what is no hash is refused, be it shorter or longer', () => {
  const whole = Buffer.alloc(16, 7)
  for (const length of [0, 15, 17]) {
    const hash = Buffer.alloc(length, 7)
    expect(() => hashesFromBytes([whole, hash])).toThrow(/16 bytes/)
    expect(() => hashesFromBase64([whole.toString('base64'), hash.toString('base64')])).toThrow(/16 bytes/)
  }
})
