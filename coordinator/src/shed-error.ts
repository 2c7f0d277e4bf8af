/** A request that was given up while it waited, before any work was done for it. */
import { OverloadedError } from '@kvasir/runtime/errors'
import type { ShedReason } from './core/protocol.js'

export const SHED_REASONS: readonly ShedReason[] = ['late', 'missed', 'priority', 'share']

export class ShedError extends OverloadedError {
  readonly shed: ShedReason

  constructor(message: string, shed: ShedReason, requestId: string, retryAfterMs: number) {
    super(message, { ids: { requestId }, retryAfterMs })
    this.shed = shed
  }
}
