/**
 * A gzip trace, unpacked once to a temporary file: it is read several times and by several threads, line by line. The memory that this
 * takes does not depend on the file. What is gzip says its content, not its name.
 */
import {
  closeSync,
  createReadStream,
  createWriteStream,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import { InvalidInputError, messageOf } from '@kvasir/runtime/errors'

/**
 * Gives `use` the path of what `file` holds unpacked, or undefined where it is no gzip; the temporary file is there until
 * `use` has ended. Throws InvalidInputError for a gzip that is cut off or broken; rejects where `signal` stops it.
 */
export async function withUnpacked<Result>(
  file: string | undefined,
  signal: AbortSignal,
  use: (unpacked: string | undefined) => Promise<Result>,
): Promise<Result> {
  if (file === undefined || !isGzip(file)) return use(undefined)
  const folder = mkdtempSync(join(tmpdir(), 'kvasir-trace-'))
  const remove = () => rmSync(folder, { recursive: true, force: true })
  // A second Ctrl-C ends the process at once.
  process.once('exit', remove)
  try {
    const unpacked = join(folder, 'trace')
    await unpack(file, unpacked, signal)
    return await use(unpacked)
  } finally {
    process.off('exit', remove)
    remove()
  }
}

/** False where it cannot be read: whoever reads it says why. */
function isGzip(file: string): boolean {
  try {
    const handle = openSync(file, 'r')
    try {
      const begin = Buffer.alloc(2)
      return readSync(handle, begin, 0, 2, 0) === 2 && begin[0] === 0x1f && begin[1] === 0x8b
    } finally {
      closeSync(handle)
    }
  } catch {
    return false
  }
}

async function unpack(file: string, to: string, signal: AbortSignal): Promise<void> {
  try {
    await pipeline(createReadStream(file), createGunzip(), createWriteStream(to), { signal })
  } catch (error) {
    if (signal.aborted) throw error
    const code = error instanceof Error && 'code' in error ? String(error.code) : ''
    const why =
      code === 'Z_BUF_ERROR'
        ? 'is cut off: its gzip data has no end. Fetch it again, whole'
        : code.startsWith('Z_')
          ? `is a broken gzip file (${messageOf(error)}). Fetch it again`
          : `cannot be unpacked to ${to} (${messageOf(error)}). Make room there, or unpack it yourself with gunzip -k`
    throw new InvalidInputError(`The trace ${file} ${why}.`, { param: 'trace' })
  }
}
