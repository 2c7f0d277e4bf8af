/** Which cluster a command talks to: `KVASIR_URL`, else the one that runs from this state folder. */
import { InvalidInputError, UnavailableError } from '@kvasir/runtime/errors'
import { readLiveRecord } from '../supervisor/run-record.js'

/**
 * Base URL without a final slash.
 * @throws InvalidInputError where KVASIR_URL is no URL; UnavailableError where no cluster runs
 */
export function locateCluster(): string {
  const given = process.env.KVASIR_URL
  if (given !== undefined && given !== '') {
    if (!URL.canParse(given) || !/^https?:$/.test(new URL(given).protocol)) {
      throw new InvalidInputError(
        `KVASIR_URL is "${given}", which is no http URL: set it to something like http://127.0.0.1:8080.`,
        { param: 'KVASIR_URL' },
      )
    }
    return given.replace(/\/+$/, '')
  }
  const record = readLiveRecord()
  if (record !== undefined) return record.url
  throw new UnavailableError(
    'No cluster runs here: start one with `npx kvasir up --detach`, or set KVASIR_URL to the URL of one.',
  )
}
