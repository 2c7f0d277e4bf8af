/** Earliest deadline first. */
import type { OrderPolicy } from './order-policy.js'

export const edf: OrderPolicy = { name: 'edf', key: ({ dueMs }) => dueMs }
