/**
 * Retrieval for tests that need none: there is no corpus, and nobody to keep one.
 */
import { NotFoundError, UnavailableError } from '@kvasir/runtime/errors'
import type { Corpora } from '../../retrieval/corpora.js'

async function missing(): Promise<never> {
  throw new NotFoundError('There is no such corpus here.')
}

export const noCorpora: Corpora = {
  async create() {
    throw new UnavailableError('No host agent is here to keep corpora.')
  },
  list: async () => [],
  get: missing,
  ingest: missing,
  delete: missing,
  search: missing,
  close() {},
}
