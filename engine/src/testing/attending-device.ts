/**
 * A device in this process that answers attention queries with its kernels, for tests: what an attending
 * agent does, without the way there.
 */
import type {
  DriverModel,
  LoadedModelFacts,
  RemoteAnswer,
  RemoteAttention,
  RemoteQuery,
} from '../device-driver.js'

/**
 * Gives the first `blocks.length` pages of a sequence to `to` (K and V, or their bounds alone for
 * `indices`), in `targets`, and returns what a step takes as `remote`.
 */
export async function attendingDevice(
  from: DriverModel,
  blocks: Uint32Array,
  to: DriverModel,
  targets: Uint32Array,
  facts: LoadedModelFacts,
  mode: RemoteAttention['mode'],
): Promise<RemoteAttention & { readonly queries: RemoteQuery[] }> {
  for (let layer = 0; layer < facts.layers; layer++) {
    if (mode === 'partial') await to.writeBlocks(layer, targets, await from.readBlocks(layer, blocks))
    await to.writeBounds(layer, targets, await from.readBounds(layer, blocks))
  }
  const queries: RemoteQuery[] = []
  return {
    pages: blocks.length,
    mode,
    queries,
    async ask(query): Promise<RemoteAnswer> {
      queries.push(query)
      const choice = await to.runKernel('choose-pages', {
        layer: query.layer,
        q: query.q,
        blocks: targets,
        pages: query.pages,
        rivals: query.rivals,
        attend: mode === 'partial',
      })
      const { chosen, partial, relevancyUs, retrievalUs, applyUs } = choice
      return {
        chosen: Uint32Array.from(chosen, ({ length }) => length),
        ...(mode === 'indices' ? { pages: Uint32Array.from(chosen.flatMap((own) => [...own])) } : {}),
        ...(partial === undefined ? {} : { partial }),
        relevancyUs,
        retrievalUs,
        applyUs,
        wireBytes: 1_000,
      }
    },
  }
}
