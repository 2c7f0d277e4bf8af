/**
 * Where a cluster on this machine keeps its state: run records, logs, caches.
 *
 * Nothing is created here; whoever writes creates the folder.
 */
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The folder that holds the packages. */
export function projectRoot(): string {
  // The same relative path from src/ and from dist/.
  return fileURLToPath(new URL('../../', import.meta.url)).replace(/\/$/, '')
}

/** `$KVASIR_HOME`, else `.kvasir` in the project. Read at each call, so that a test can set it. */
export function stateFolder(): string {
  const home = process.env.KVASIR_HOME
  return home === undefined || home === '' ? join(projectRoot(), '.kvasir') : resolve(home)
}

/** What `kvasir up` writes and `kvasir status` reads. */
export function runRecordPath(): string {
  return join(stateFolder(), 'run', 'cluster.json')
}

/** Things that can be fetched or computed again: binaries, digests. */
export function cacheFolder(): string {
  return join(stateFolder(), 'cache')
}

/** One JSON lines file a process. */
export function logFolder(): string {
  return join(stateFolder(), 'log')
}
