/** Where things are: the checkout, and what set-up keeps in it, whatever KVASIR_HOME says. */
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** Root of the checkout. */
export const projectRoot = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..')

/** Stamps, lock and logs of set-up. */
export const setupFolder = path.join(projectRoot, '.kvasir', 'setup')

/** What was downloaded and may be fetched again; shared by all clusters of this checkout. */
export const downloadFolder = path.join(projectRoot, '.kvasir', 'cache')
