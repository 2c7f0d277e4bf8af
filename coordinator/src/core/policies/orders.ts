/** The orders by name. */
import type { OrderName } from '../placement-policy.js'
import { edf } from './edf.js'
import { fcfs } from './fcfs.js'
import { leastSlack } from './least-slack.js'
import type { OrderPolicy } from './order-policy.js'
import { value } from './value.js'

export const ORDERS: Readonly<Record<OrderName, OrderPolicy>> = {
  fcfs,
  edf,
  'least-slack': leastSlack,
  value,
}
