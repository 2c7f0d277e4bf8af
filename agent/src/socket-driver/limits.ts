/** Bounds and times of an agent's connection to its driver, beside those of the protocol (I2). */

/** How long a driver may take to be there and say Hello. */
export const CONNECT_MS_MAX = 30_000
export const CONNECT_AGAIN_MS = 100
/** A driver with nothing to do is asked for a sign of life so often. */
export const PING_MS = 2_000
/** Calls that wait for their answer; more are refused. */
export const CALLS_MAX = 65_536
/** Bytes that wait for the driver to read them, above which calls are refused. */
export const UNSENT_BYTES_MAX = 1_500_000_000
/** How long a driver that was asked to end may take. */
export const CLOSE_MS = 5_000
