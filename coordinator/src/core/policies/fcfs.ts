/** First come, first served. */
import type { OrderPolicy } from './order-policy.js'

export const fcfs: OrderPolicy = { name: 'fcfs', key: ({ arrival }) => arrival }
