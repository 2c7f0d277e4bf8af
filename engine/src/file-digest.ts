/** SHA-256 of files, hexadecimal. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { cacheFolder } from '@kvasir/runtime/state-folder'

/** Read only when the file is new or has changed: what was worked out is kept by path, size and time of change. */
export async function fileDigest(path: string): Promise<string> {
  const { size, mtimeMs } = await stat(path)
  const key = createHash('sha256').update(`${path}\0${size}\0${mtimeMs}`).digest('hex')
  const cached = join(cacheFolder(), 'digests', key)
  const known = await readFile(cached, 'utf8').catch(() => '')
  if (/^[0-9a-f]{64}$/.test(known)) return known
  const hash = createHash('sha256')
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash)
  const digest = hash.digest('hex')
  // The cache only saves time: a folder that cannot be written is no reason to fail.
  const temporary = `${cached}.${process.pid}`
  await mkdir(join(cacheFolder(), 'digests'), { recursive: true })
    .then(() => writeFile(temporary, digest))
    .then(() => rename(temporary, cached))
    .catch(() => undefined)
  return digest
}
