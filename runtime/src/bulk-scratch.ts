/**
 * Where messages with bulk data are put together. The transport copies what it is given before it
 * returns, so one place serves all messages; fresh memory for each costs more than the copy.
 */

const SCRATCH_BYTES = 4 << 20
const scratch = Buffer.allocUnsafeSlow(SCRATCH_BYTES)

/** The parts one after another; only good until the next call. */
export function joinedInScratch(parts: readonly Uint8Array[]): Buffer {
  const bytes = parts.reduce((sum, { length }) => sum + length, 0)
  const message = bytes <= SCRATCH_BYTES ? scratch.subarray(0, bytes) : Buffer.allocUnsafe(bytes)
  let at = 0
  for (const part of parts) {
    message.set(part, at)
    at += part.length
  }
  return message
}
