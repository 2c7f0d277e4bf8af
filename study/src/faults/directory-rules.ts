/**
 * I6, of the directory: at rest, when all news has come, it may know less than devices hold, and never more. While news is
 * under way it may say anything, which costs time alone.
 */

import { wordsOfTexts } from '../cluster/block-names.js'
import type { AnyCoordinatorCore } from '../cluster/world.js'
import type { RequestLedger } from './request-ledger.js'
import { Violation } from './violation.js'

export function checkDirectory(
  { directory, follower }: Pick<AnyCoordinatorCore, 'directory' | 'follower'>,
  /** Of devices that live. */
  stored: ReadonlyMap<string, ReadonlySet<string>>,
  requestIds: Iterable<string>,
  ledger: RequestLedger,
): void {
  const healing = new Set(follower.healing())
  const names = new Set<string>()
  for (const requestId of requestIds)
    for (const block of ledger.request(requestId).blocks) names.add(String(block))
  for (const [deviceId, held] of stored) {
    if (healing.has(deviceId)) continue
    for (const name of names) {
      if (held.has(name) || directory.tierOf(deviceId, wordsOfTexts([name])) === '') continue
      throw new Violation(
        'I6',
        `The directory is up to date with ${deviceId} and thinks that it holds ${name}, which it does not.`,
        [deviceId],
      )
    }
  }
}
