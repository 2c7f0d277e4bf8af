/**
 * Most value for the work: every request of a priority is worth the same, so the one with the least work comes first.
 * Long ones are held up for at most what wait-line.ts allows.
 */
import type { OrderPolicy } from './order-policy.js'

export const value: OrderPolicy = { name: 'value', key: ({ workTokens }) => workTokens }
