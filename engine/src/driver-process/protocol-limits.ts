/** Version and times of the driver's protocol (proto/kvasir/driver/v1/driver.proto, P5), the same on both sides. */

export const DRIVER_PROTOCOL_VERSION = 1
/** Longest silence of a driver that has calls pending, and longest time without progress, where it names none. */
export const SILENCE_MS_MAX = 10_000
export const PROGRESS_MS_MAX = 30_000
/** What a driver may name instead. */
export const NAMED_MS = { min: 100, max: 300_000 } as const
/** Longest time to load or inspect a model. */
export const LOAD_MS_MAX = 900_000
