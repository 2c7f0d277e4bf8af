/**
 * Runs attention calls, with as many threads as rule A1 of attention-graph.ts allows.
 */
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { buildAttentionGraph } from './attention-graph.js'
import type { AttentionCall } from './attention-plan.js'
import { BLOCK_TOKENS } from './device-driver.js'
import { doubleRows, everySecondRow } from './doubled-rows.js'
import type { ModelConfig } from './model-config.js'
import type { KvFormat } from './numerics.js'
import { floats, sessionOptions, shapeTensor } from './ort-session.js'

export class AttentionSessions {
  readonly #config: ModelConfig
  readonly #all: ReadonlySet<InferenceSession>
  /** At most one thread a KV head: then no product is divided among threads. */
  readonly #narrow: InferenceSession
  /** All threads, for many rows: products are then divided by rows only. */
  readonly #wide: InferenceSession
  readonly #wideRowsMin: number
  /** As narrow, with the weight of each page beside it. */
  readonly #weighing: InferenceSession

  private constructor(
    config: ModelConfig,
    threads: number,
    { narrow, wide, weighing }: Record<'narrow' | 'wide' | 'weighing', InferenceSession>,
  ) {
    this.#config = config
    this.#all = new Set([narrow, wide, weighing])
    this.#narrow = narrow
    this.#wide = wide
    this.#weighing = weighing
    // The product with V is divided by rows where it has at least as many rows as columns; the other
    // bound leaves every thread more than one row.
    this.#wideRowsMin = Math.max(config.headDim, 2 * threads)
  }

  static async create(config: ModelConfig, pool: KvFormat, threads: number): Promise<AttentionSessions> {
    const model = buildAttentionGraph(config, pool)
    const narrowOptions = sessionOptions(Math.min(threads, config.kvHeads))
    const narrow = await InferenceSession.create(model, narrowOptions)
    const weighing = await InferenceSession.create(
      buildAttentionGraph(config, pool, { pageMass: true }),
      narrowOptions,
    )
    const wide =
      threads > config.kvHeads ? await InferenceSession.create(model, sessionOptions(threads)) : narrow
    return new AttentionSessions(config, threads, { narrow, wide, weighing })
  }

  async release(): Promise<void> {
    for (const session of this.#all) await session.release()
  }

  /**
   * `q`: `[call.rows, heads · dim]`; `attended` has the same shape. With `weighed`, which is for calls with
   * one row a query, `pageMass` is `[batch, kv heads, keys / 16]`, else empty.
   */
  async run(
    call: AttentionCall,
    q: Float32Array,
    slab: Readonly<Record<string, Tensor>>,
    weighed = false,
  ): Promise<{ readonly attended: Float32Array; readonly pageMass: Float32Array }> {
    const { heads, kvHeads, headDim } = this.#config
    const { batch, queryRows, keys } = call
    const group = heads / kvHeads
    const query = call.doubled ? doubleRows(q, heads * headDim) : q
    const runs = [batch, kvHeads, keys / BLOCK_TOKENS]
    const wide = group * queryRows >= this.#wideRowsMin ? this.#wide : this.#narrow
    const { attention, pageMass } = await (weighed ? this.#weighing : wide).run({
      q: new Tensor('float32', query, [batch, queryRows, kvHeads, group, headDim]),
      ...slab,
      keyRuns: new Tensor('int32', call.keyRuns, runs),
      valueRuns: new Tensor('int32', call.valueRuns, runs),
      mask: new Tensor('float32', call.mask, [batch, 1, 1, queryRows, keys]),
      scoresByRow: shapeTensor(batch, kvHeads, group, queryRows, keys),
      scoresFlat: shapeTensor(batch, kvHeads, group * queryRows, keys),
    })
    const out = floats(attention)
    return {
      attended: call.doubled ? everySecondRow(out, heads * headDim) : out,
      pageMass: weighed ? floats(pageMass) : new Float32Array(0),
    }
  }
}
