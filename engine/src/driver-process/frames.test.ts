/** Frames come out as they went in, however they are cut on the way, and lengths that no frame has are refused. */
import type { Socket } from 'node:net'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { FrameReader, MESSAGE_BYTES_MAX, writeFrame } from './frames.js'

interface Frame {
  readonly message: Uint8Array
  readonly payload: Uint8Array
}

/** What `writeFrame` sends. */
function bytesOf(frames: readonly Frame[]): Buffer {
  const parts: Uint8Array[] = []
  const socket = {
    cork() {},
    uncork() {},
    write: (part: Uint8Array) => parts.push(part),
  } as unknown as Socket
  for (const { message, payload } of frames) writeFrame(socket, message, [payload])
  return Buffer.concat(parts)
}

/** The bytes cut at these places, each part read in one of the two ways. */
function readAll(bytes: Buffer, cuts: readonly number[]): Frame[] {
  const frames: Frame[] = []
  const reader = new FrameReader((message, payload) => frames.push({ message: message.slice(), payload }))
  const places = [...new Set([0, ...cuts.map((cut) => cut % bytes.length), bytes.length])].sort(
    (a, b) => a - b,
  )
  for (const [i, end] of places.slice(1).entries()) {
    let at = places[i] ?? 0
    while (i % 2 === 0 && at < end) {
      const target = reader.target()
      const count = Math.min(target.length, end - at)
      target.set(bytes.subarray(at, at + count))
      reader.filled(count, target)
      at += count
    }
    if (at < end) reader.push(bytes.subarray(at, end))
  }
  return frames
}

const frame = fc.record({
  message: fc.uint8Array({ minLength: 1, maxLength: 40 }),
  // Some above what is read directly to its place.
  payload: fc.oneof(
    fc.uint8Array({ maxLength: 60 }),
    fc.integer({ min: 300_000, max: 400_000 }).map((bytes) => new Uint8Array(bytes).fill(bytes % 251)),
  ),
})

test('frames survive any cutting, each payload in a buffer of its own', () => {
  fc.assert(
    fc.property(
      fc.array(frame, { minLength: 1, maxLength: 4 }),
      fc.array(fc.nat(1 << 21)),
      (frames, cuts) => {
        const read = readAll(bytesOf(frames), cuts)
        expect(read.length).toBe(frames.length)
        for (const [i, { message, payload }] of read.entries()) {
          expect(Buffer.compare(message, frames[i]?.message ?? new Uint8Array(0))).toBe(0)
          expect(Buffer.compare(payload, frames[i]?.payload ?? new Uint8Array(0))).toBe(0)
          expect(payload.byteLength).toBe(payload.buffer.byteLength)
        }
      },
    ),
    { numRuns: 60 },
  )
})

test.each([
  ['no message', [0, 0]],
  ['a message too long', [MESSAGE_BYTES_MAX + 1, 0]],
  ['a payload too long', [1, 2 ** 30 + 1]],
])(
  'a frame with %s is refused before anything is allocated for it',
  (_, [messageBytes = 0, payloadBytes = 0]) => {
    const head = Buffer.alloc(8)
    head.writeUInt32LE(messageBytes, 0)
    head.writeUInt32LE(payloadBytes, 4)
    const reader = new FrameReader(() => {})
    expect(() => reader.push(head)).toThrow(/A frame of/)
  },
)
