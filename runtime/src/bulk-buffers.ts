/**
 * Memory for messages of bulk data, used again: fresh memory costs as much as the copy into it, since the kernel
 * hands out every page anew and the garbage collector takes it back late.
 *
 * Whoever holds a buffer alone may give it back with `recycle`, and must not look at it afterwards. Nobody has to:
 * what is not given back is garbage like any other.
 */

/** A message of bulk data: a full chunk and what stands around it. */
const BULK_BUFFER_BYTES = (2 << 20) + (16 << 10)
/** Smaller ones are cheap to make. */
const SMALL_BYTES = 64 << 10
/** Several full windows. */
const KEPT_MAX = 16

const kept: ArrayBuffer[] = []

/** `bytes` of memory with any content: alone in its buffer where it is large. */
export function takeBuffer(bytes: number): Buffer<ArrayBuffer> {
  if (bytes < SMALL_BYTES || bytes > BULK_BUFFER_BYTES) return Buffer.allocUnsafeSlow(bytes)
  return Buffer.from(kept.pop() ?? new ArrayBuffer(BULK_BUFFER_BYTES), 0, bytes)
}

/** Takes back the buffer under `bytes`, where it is one that `takeBuffer` made and it is still here. */
export function recycle({ buffer }: Uint8Array): void {
  // One that another thread has now is of length 0.
  if (buffer.byteLength !== BULK_BUFFER_BYTES || !(buffer instanceof ArrayBuffer)) return
  if (kept.length < KEPT_MAX && !kept.includes(buffer)) kept.push(buffer)
}

const disposable = new WeakSet<ArrayBufferLike>()

/** Says of bytes that were made to be sent that nobody looks at them afterwards. */
export function toDispose<Bytes extends Uint8Array>(bytes: Bytes): Bytes {
  disposable.add(bytes.buffer)
  return bytes
}

/** They have been sent: recycled where `toDispose` was said of them. */
export function dispose(parts: readonly Uint8Array[]): void {
  for (const part of parts) if (disposable.delete(part.buffer)) recycle(part)
}
