/** The kernels' calls as messages, on the driver's side. Wrong sizes of payloads are CorruptDataErrors. */
import type { DriverReply, DriverRequest } from '@kvasir/proto/kvasir/driver/v1/driver'
import type { DeviceDriver, DriverModel } from '../device-driver.js'
import { partialBytes } from './partial-payload.js'
import { bytesOf, PayloadReader } from './payload.js'

export type Request = NonNullable<DriverRequest['request']>
export type Reply = NonNullable<DriverReply['reply']>

/** What a call is answered with. */
export interface Answered {
  readonly reply: Reply
  readonly payload?: readonly Uint8Array[]
}

export type AttentionRequest = Extract<
  Request,
  { $case: 'pageBounds' | 'pageScores' | 'topK' | 'partialAttention' | 'choosePages' }
>
export type SearchRequest = Extract<Request, { $case: 'bm25Load' | 'bm25Unload' | 'bm25Search' }>

export const DONE: Reply = { $case: 'done', value: {} }

export async function answerAttention(
  model: DriverModel,
  request: AttentionRequest,
  bytes: Uint8Array<ArrayBuffer>,
): Promise<Answered> {
  const payload = new PayloadReader(bytes)
  switch (request.$case) {
    case 'pageBounds': {
      const { layer, blocks } = request.value
      payload.end()
      const bounds = await model.runKernel('page-bounds', { layer, blocks: Uint32Array.from(blocks) })
      return { reply: DONE, payload: [bytesOf(bounds)] }
    }
    case 'pageScores': {
      const { layer, blocks } = request.value
      const input = { layer, q: payload.restFloats(), blocks: Uint32Array.from(blocks) }
      return { reply: DONE, payload: [bytesOf(await model.runKernel('page-scores', input))] }
    }
    case 'topK': {
      const { rows, k } = request.value
      return {
        reply: DONE,
        payload: [bytesOf(await model.runKernel('top-k', { values: payload.restFloats(), rows, k }))],
      }
    }
    case 'partialAttention': {
      const { layer, heads } = request.value
      const blocks = heads.map((head) => Uint32Array.from(head.blocks))
      const partial = await model.runKernel('partial-attention', { layer, q: payload.restFloats(), blocks })
      return { reply: DONE, payload: partialBytes(partial) }
    }
    case 'choosePages': {
      const { layer, blocks, pages, attend } = request.value
      const q = payload.floats(model.facts.heads * model.facts.headDim)
      const input = {
        layer,
        q,
        blocks: Uint32Array.from(blocks),
        pages,
        rivals: payload.restFloats(),
        attend,
      }
      const { chosen, partial, mass, ...times } = await model.runKernel('choose-pages', input)
      const { relevancyUs, retrievalUs, applyUs } = times
      return {
        reply: {
          $case: 'chosen',
          value: {
            counts: chosen.map(({ length }) => length),
            relevancyUs: Math.round(relevancyUs),
            retrievalUs: Math.round(retrievalUs),
            applyUs: Math.round(applyUs),
          },
        },
        payload: [
          ...chosen.map(bytesOf),
          ...(partial === undefined ? [] : partialBytes(partial)),
          ...(mass ?? []).map(bytesOf),
        ],
      }
    }
  }
}

export async function answerSearch(
  driver: DeviceDriver,
  request: SearchRequest,
  bytes: Uint8Array<ArrayBuffer>,
): Promise<Answered> {
  const { key } = request.value
  switch (request.$case) {
    case 'bm25Load': {
      const loaded = BigInt(await driver.runKernel('bm25-load', { key, shard: bytes }))
      return { reply: { $case: 'shardLoaded', value: { bytes: loaded } } }
    }
    case 'bm25Unload':
      await driver.runKernel('bm25-unload', { key })
      return { reply: DONE }
    case 'bm25Search': {
      const { meanLength, k } = request.value
      const payload = new PayloadReader(bytes)
      // Each term has a weight of 8 bytes and a number of 4.
      const count = Math.floor(payload.rest / 12)
      const weights = payload.doubles(count)
      const input = { key, terms: payload.words(count), weights, meanLength, k }
      payload.end()
      const { documents, scores, relevancyUs, retrievalUs } = await driver.runKernel('bm25-search', input)
      return {
        reply: {
          $case: 'found',
          value: {
            count: documents.length,
            relevancyUs: Math.round(relevancyUs),
            retrievalUs: Math.round(retrievalUs),
          },
        },
        payload: [bytesOf(scores), bytesOf(documents)],
      }
    }
  }
}
