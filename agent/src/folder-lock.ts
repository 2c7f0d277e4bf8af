/**
 * Lets one process at a time work in a folder that several may share.
 *
 * Invariant: a lock whose holder has died, or has not touched it for STALE_MS, is taken over. Two that take it over at
 * the same moment may both believe to have it, so it saves work and protects nothing.
 */
import { mkdir, open, readFile, rm, stat, utimes } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { delay } from '@kvasir/runtime/deferred'

const TOUCH_MS = 2_000
const STALE_MS = 15_000
const RETRY_MS = 200

/** Waits for its turn until `signal` aborts, whose reason it then throws. */
export async function withFolderLock<T>(
  folder: string,
  signal: AbortSignal,
  work: () => Promise<T>,
): Promise<T> {
  const path = join(folder, 'lock')
  await mkdir(folder, { recursive: true })
  while (!(await take(path))) {
    signal.throwIfAborted()
    if (await isAbandoned(path)) await rm(path, { force: true })
    else await delay(RETRY_MS, signal)
  }
  const touching = setInterval(() => {
    const now = new Date()
    utimes(path, now, now).catch(() => {})
  }, TOUCH_MS)
  try {
    signal.throwIfAborted()
    return await work()
  } finally {
    clearInterval(touching)
    await rm(path, { force: true })
  }
}

async function take(path: string): Promise<boolean> {
  try {
    const file = await open(path, 'wx')
    await file.writeFile(`${hostname()} ${process.pid}`)
    await file.close()
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false
    throw error
  }
}

async function isAbandoned(path: string): Promise<boolean> {
  const [facts, holder] = await Promise.all([
    stat(path).catch(() => undefined),
    readFile(path, 'utf8').catch(() => ''),
  ])
  if (facts === undefined) return false
  if (Date.now() - facts.mtimeMs > STALE_MS) return true
  const [host, pid] = holder.split(' ')
  return host === hostname() && pid !== undefined && !isAlive(Number(pid))
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM'
  }
}
