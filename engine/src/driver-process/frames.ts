/**
 * The frames of a driver's connection (proto/kvasir/driver/v1/driver.proto): two lengths, a message, a payload.
 *
 * F1 A payload is received into memory of its own, to which large ones are read directly: whoever gets it may
 *    keep it, give its buffer away, and see it as numbers.
 * F2 Payloads are sent from where they stand. They must not change until they were written.
 * F3 Lengths above the bounds are refused before anything is allocated for them.
 */
import type { Socket } from 'node:net'
import { CorruptDataError } from '@kvasir/runtime/errors'

export const MESSAGE_BYTES_MAX = 4 << 20
export const PAYLOAD_BYTES_MAX = 1 << 30
const HEAD_BYTES = 8
/** Bytes read at a time where no large payload is under way. */
const SCRATCH_BYTES = 256 << 10
const EMPTY = new Uint8Array(0)

/** `payload` stands in an ArrayBuffer of its own, empty where there is none. */
export type FrameListener = (message: Uint8Array, payload: Uint8Array<ArrayBuffer>) => void

/** Puts frames together from what is read. */
export class FrameReader {
  readonly #scratch = Buffer.allocUnsafeSlow(SCRATCH_BYTES)
  readonly #head = Buffer.alloc(HEAD_BYTES)
  #headFilled = 0
  #message: Uint8Array = EMPTY
  #messageFilled = 0
  #payload: Uint8Array<ArrayBuffer> = EMPTY
  #payloadFilled = 0
  #onFrame: FrameListener

  constructor(onFrame: FrameListener) {
    this.#onFrame = onFrame
  }

  /** Where the next bytes are to be read to: `filled` says how many they were. */
  target(): Uint8Array {
    const missing = this.#payload.length - this.#payloadFilled
    const isLarge = this.#isInPayload && missing >= SCRATCH_BYTES
    return isLarge ? this.#payload.subarray(this.#payloadFilled) : this.#scratch
  }

  /** `target`: where they were read to. Throws as `push` does. */
  filled(bytes: number, target: Uint8Array): void {
    if (target.buffer === this.#scratch.buffer) {
      this.push(this.#scratch.subarray(0, bytes))
    } else {
      this.#payloadFilled += bytes
      this.#finish()
    }
  }

  /** Takes bytes as they came. Throws CorruptDataError for lengths that no frame has, and what the listener throws. */
  push(bytes: Uint8Array): void {
    let at = 0
    while (at < bytes.length) {
      if (this.#headFilled < HEAD_BYTES) {
        const count = Math.min(HEAD_BYTES - this.#headFilled, bytes.length - at)
        this.#head.set(bytes.subarray(at, at + count), this.#headFilled)
        this.#headFilled += count
        at += count
        if (this.#headFilled === HEAD_BYTES) this.#begin()
      } else if (this.#messageFilled < this.#message.length) {
        const count = Math.min(this.#message.length - this.#messageFilled, bytes.length - at)
        this.#message.set(bytes.subarray(at, at + count), this.#messageFilled)
        this.#messageFilled += count
        at += count
      } else {
        const count = Math.min(this.#payload.length - this.#payloadFilled, bytes.length - at)
        this.#payload.set(bytes.subarray(at, at + count), this.#payloadFilled)
        this.#payloadFilled += count
        at += count
      }
      this.#finish()
    }
  }

  get #isInPayload(): boolean {
    return this.#headFilled === HEAD_BYTES && this.#messageFilled === this.#message.length
  }

  #begin(): void {
    const messageBytes = this.#head.readUInt32LE(0)
    const payloadBytes = this.#head.readUInt32LE(4)
    if (messageBytes === 0 || messageBytes > MESSAGE_BYTES_MAX || payloadBytes > PAYLOAD_BYTES_MAX) {
      throw new CorruptDataError(
        `A frame of ${messageBytes} and ${payloadBytes} bytes is none: messages have 1 to ${MESSAGE_BYTES_MAX}, payloads at most ${PAYLOAD_BYTES_MAX}.`,
      )
    }
    this.#message = Buffer.allocUnsafe(messageBytes)
    this.#messageFilled = 0
    this.#payload = new Uint8Array(Buffer.allocUnsafeSlow(payloadBytes).buffer)
    this.#payloadFilled = 0
  }

  #finish(): void {
    if (!this.#isInPayload || this.#payloadFilled < this.#payload.length) return
    const message = this.#message
    const payload = this.#payload
    this.#headFilled = 0
    this.#message = EMPTY
    this.#messageFilled = 0
    this.#payload = EMPTY
    this.#payloadFilled = 0
    this.#onFrame(message, payload)
  }
}

/** Sends one frame. Throws CorruptDataError for one that is beyond the bounds. */
export function writeFrame(socket: Socket, message: Uint8Array, payload: readonly Uint8Array[] = []): void {
  const payloadBytes = payload.reduce((sum, { byteLength }) => sum + byteLength, 0)
  if (message.length > MESSAGE_BYTES_MAX || payloadBytes > PAYLOAD_BYTES_MAX) {
    throw new CorruptDataError(
      `A frame of ${message.length} and ${payloadBytes} bytes is too large for the driver's connection.`,
    )
  }
  const head = Buffer.allocUnsafe(HEAD_BYTES + message.length)
  head.writeUInt32LE(message.length, 0)
  head.writeUInt32LE(payloadBytes, 4)
  head.set(message, HEAD_BYTES)
  socket.cork()
  socket.write(head)
  for (const part of payload) if (part.length > 0) socket.write(part)
  socket.uncork()
}
