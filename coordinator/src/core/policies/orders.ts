/** The orders by name. */
import { edf } from './edf.js'
import { fcfs } from './fcfs.js'
import { leastSlack } from './least-slack.js'
import type { OrderPolicy } from './order-policy.js'
import type { OrderName } from './policy-names.js'
import { value } from './value.js'

export const ORDERS: Readonly<Record<OrderName, OrderPolicy>> = {
  fcfs,
  edf,
  'least-slack': leastSlack,
  value,
}
