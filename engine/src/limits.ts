/** Sizes that the engine in one process and the agents share, so that both cut work in the same places. */

/** Most prompt tokens of one sequence in one step: a longer prefill is run in chunks of this many. */
export const PREFILL_CHUNK_TOKENS = 256

/** Most sequences that decode together in one step of the engine in one process. */
export const DECODE_SEQUENCES_MAX = 32

/** Threads of one call: more cost more to wake than they save; A1 of attention-graph.ts was checked up to here. */
export const THREADS_MAX = 16

/** Most rows (new tokens) of one step, over all its sequences. */
export const STEP_ROWS_MAX = 512
