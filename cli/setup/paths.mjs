/**
 * Where things are: the checkout, and what set-up keeps beside it.
 *
 * Set-up state belongs to the checkout (its node_modules, its dist folders), so it does
 * not move with KVASIR_HOME; the download cache does, like all state of a cluster.
 */
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** Root of the checkout. */
export const projectRoot = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..')

/** Stamps, lock and logs of set-up. */
export const setupFolder = path.join(projectRoot, '.kvasir', 'setup')

/** What was downloaded and may be fetched again: `$KVASIR_HOME/cache`, else `.kvasir/cache`. */
export function cacheFolder(environment = process.env) {
  const home = environment.KVASIR_HOME
  return path.join(home ? path.resolve(home) : path.join(projectRoot, '.kvasir'), 'cache')
}
