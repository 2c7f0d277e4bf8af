/**
 * Runs attention calls, with as many threads as rule A1 of attention-graph.ts allows.
 */
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { buildAttentionGraph } from './attention-graph.js'
import type { AttentionCall } from './attention-plan.js'
import { BLOCK_TOKENS } from './device-driver.js'
import { doubleRows, everySecondRow } from './doubled-rows.js'
import type { ModelConfig } from './model-config.js'
import { floats, sessionOptions, shapeTensor } from './ort-session.js'

export class AttentionSessions {
  readonly #config: ModelConfig
  /** At most one thread a KV head: then no product is divided among threads. */
  readonly #narrow: InferenceSession
  /** All threads, for many rows: products are then divided by rows only. */
  readonly #wide: InferenceSession
  readonly #wideRowsMin: number

  private constructor(
    config: ModelConfig,
    threads: number,
    narrow: InferenceSession,
    wide: InferenceSession,
  ) {
    this.#config = config
    this.#narrow = narrow
    this.#wide = wide
    // The product with V is divided by rows where it has at least as many rows as columns; the other
    // bound leaves every thread more than one row.
    this.#wideRowsMin = Math.max(config.headDim, 2 * threads)
  }

  static async create(config: ModelConfig, threads: number): Promise<AttentionSessions> {
    const model = buildAttentionGraph(config)
    const narrow = await InferenceSession.create(model, sessionOptions(Math.min(threads, config.kvHeads)))
    const wide =
      threads > config.kvHeads ? await InferenceSession.create(model, sessionOptions(threads)) : narrow
    return new AttentionSessions(config, threads, narrow, wide)
  }

  /** `q`: `[call.rows, heads · dim]`; returns the same shape. */
  async run(call: AttentionCall, q: Float32Array, slab: Tensor): Promise<Float32Array> {
    const { heads, kvHeads, headDim } = this.#config
    const { batch, queryRows, keys } = call
    const group = heads / kvHeads
    const query = call.doubled ? doubleRows(q, heads * headDim) : q
    const runs = [batch, kvHeads, keys / BLOCK_TOKENS]
    const session = group * queryRows >= this.#wideRowsMin ? this.#wide : this.#narrow
    const { attention } = await session.run({
      q: new Tensor('float32', query, [batch, queryRows, kvHeads, group, headDim]),
      slab,
      keyRuns: new Tensor('int32', call.keyRuns, runs),
      valueRuns: new Tensor('int32', call.valueRuns, runs),
      mask: new Tensor('float32', call.mask, [batch, 1, 1, queryRows, keys]),
      scoresByRow: shapeTensor(batch, kvHeads, group, queryRows, keys),
      scoresFlat: shapeTensor(batch, kvHeads, group * queryRows, keys),
    })
    const out = floats(attention)
    return call.doubled ? everySecondRow(out, heads * headDim) : out
  }
}
