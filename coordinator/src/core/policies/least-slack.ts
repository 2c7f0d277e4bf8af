/**
 * Least slack first: by the last moment at which prefill may begin. Slack shrinks alike for all that wait, so the order
 * of two requests never changes.
 */
import type { OrderPolicy } from './order-policy.js'

export const leastSlack: OrderPolicy = {
  name: 'least-slack',
  key: ({ dueMs, prefillMs }) => dueMs - prefillMs(),
}
