/** Names of the policies, which settings and reports use; a leaf, so that policies and what puts them together can both import it. */

/** Which of one tenant's waiting requests of one priority is placed first. */
export const ORDER_NAMES = ['fcfs', 'edf', 'least-slack', 'value'] as const
export type OrderName = (typeof ORDER_NAMES)[number]

/** Which pair of devices a request gets. */
export const PICK_NAMES = ['house', 'earliest-finish', 'static-affinity', 'round-robin'] as const
export type PickName = (typeof PICK_NAMES)[number]
