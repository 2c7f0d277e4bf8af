/**
 * Brings cached blocks of a prompt from another device, or from a host's memory, before the rest is computed.
 *
 * Whatever goes wrong, it ends with the tokens that are there: what did not come is computed. As the real agent it gives up a
 * source of which it hears nothing for a while, and a fetch that takes too long.
 */
import { SHARED_BOUNDS } from '@kvasir/agent/core/shared-bounds'
import type { Flow } from './shared-links.js'
import type { VirtualAgent } from './virtual-agent.js'
import type { KvSource } from './world.js'

/** Of one message: what has not come whole is not heard. */
const MESSAGE_BYTES = 1 << 20
/** How often a fetch is looked at: silence is noticed at most so much late. */
const LOOKS_A_SILENCE = 3

export interface FetchWish {
  readonly names: readonly string[]
  /** Tokens that are here already, and those that the source is thought to have. */
  readonly localTokens: number
  readonly tokens: number
}

/**
 * `done` with the tokens that came; not called once `isOver` says that nobody waits any more. What is returned ends it before
 * its time: the source sends no more and has its blocks back.
 */
export function fetchCached(
  agent: VirtualAgent,
  source: KvSource | undefined,
  { names, localTokens, tokens }: FetchWish,
  isOver: () => boolean,
  done: (fetchedTokens: number, bytes: number, ms: number) => void,
): () => void {
  const { world } = agent
  const { queue, network, links, plan } = world
  const { blockTokens } = plan
  const beganMs = queue.nowMs
  let isSettled = false
  let flow: Flow | undefined
  const settle = (fetchedTokens: number, bytes: number) => {
    if (isSettled) return
    isSettled = true
    if (flow) links.cancel(flow)
    if (!isOver()) done(fetchedTokens, bytes, queue.nowMs - beganMs)
  }
  if (source === undefined) {
    queue.after(plan.messageMs, () => settle(0, 0))
    return () => {}
  }
  const wanted = names.slice(Math.floor(localTokens / blockTokens), Math.floor(tokens / blockTokens))
  let giveBack = () => {}
  const call = network.call(
    agent,
    source,
    'fetch',
    (asked) => {
      // Blocks are named with all before them, so a run that begins in the middle is looked for by its own names.
      const { loan, count, through } = source.lend(wanted)
      giveBack = () => {
        giveBack = () => {}
        source.giveBack(loan)
      }
      if (count === 0) {
        network.answer(asked, 'lacks', () => settle(0, 0), true)
        return
      }
      const bytes = count * blockTokens * plan.wireBytesPerToken
      const path = world.path(source, agent)
      flow = links.open([...through, ...path.links], () => {
        giveBack()
        agent.meter.receivedBytes += bytes
        source.sent(bytes)
        queue.after(path.latencyMs, () => {
          network.answer(asked, 'fetched', () => settle(count * blockTokens, bytes), true)
        })
      })
      links.close(flow, bytes)
    },
    {
      broken: () => settle(0, 0),
      gone: () => {
        if (flow) links.cancel(flow)
        giveBack()
      },
    },
  )
  const giveUp = () => {
    if (isSettled) return
    network.cancel(call)
    settle(0, 0)
  }
  let heardMs = beganMs
  let heardBytes = 0
  const watch = () => {
    if (isSettled) return
    links.settle()
    const sentBytes = flow?.sentBytes ?? 0
    if (flow?.isOver === true || sentBytes >= heardBytes + MESSAGE_BYTES) {
      heardMs = queue.nowMs
      heardBytes = sentBytes
    }
    const { fetchSilenceMs, fetchMs } = SHARED_BOUNDS
    const isLate = queue.nowMs - heardMs >= fetchSilenceMs || queue.nowMs - beganMs >= fetchMs
    if (isLate) giveUp()
    else queue.after(fetchSilenceMs / LOOKS_A_SILENCE, watch)
  }
  watch()
  return giveUp
}
