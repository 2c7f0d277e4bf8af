/** Mistakes of a device agent. */
import type { CoreAction, CoreEvent } from '@kvasir/agent/core/events'
import { agentThat, type PlantedBug } from './planted-bug.js'

export const skippedLeaseCheck: PlantedBug = {
  name: 'skipped-lease-check',
  what: 'a sequence is decoded though its lease has ended',
  agent: (options) =>
    agentThat(options, (core, event, nowMs) => {
      const actions = core.step(event, nowMs)
      const isOver = actions.some((action) => action.type === 'refused' && action.reason === 'lease-ended')
      if (event.type !== 'decode' || !isOver) return actions
      const { requestId, epoch, promptTokens: tokens, hashes } = event
      const lent = core.step({ type: 'reserve', requestId, epoch, tokens, hashes, purpose: 'decode' }, nowMs)
      const granted = lent.find((action) => action.type === 'granted')
      if (granted === undefined) return [...actions, ...without(lent, 'refused')]
      const lease = { ...event.lease, counter: granted.counter }
      const taken = core.step({ ...event, lease }, nowMs)
      return [...without(actions, 'refused'), ...without(lent, 'granted'), ...taken]
    }),
}

export const olderLeaseAccepted: PlantedBug = {
  name: 'older-lease-accepted',
  what: 'a lease of an earlier life of the device is taken for one of this life',
  agent: (options) =>
    agentThat(options, (core, event, nowMs) => {
      if (event.type !== 'decode' && event.type !== 'release') return core.step(event, nowMs)
      const { incarnation } = options
      return core.step({ ...event, lease: { ...event.lease, incarnation } }, nowMs)
    }),
}

export const forgottenRelease: PlantedBug = {
  name: 'forgotten-release',
  what: 'what a cancelled sequence held is not given back',
  agent: (options) =>
    agentThat(options, (core, event, nowMs) => {
      if (event.type === 'end' && event.cause === 'cancelled') return []
      const isOurs = event.type === 'release' && event.lease.incarnation === options.incarnation
      if (isOurs) return [{ type: 'released', wasAlive: true }]
      return core.step(event, nowMs)
    }),
}

export const freedUnderTransfer: PlantedBug = {
  name: 'freed-under-transfer',
  what: 'blocks are given to others while a transfer still reads them',
  agent: (options) =>
    agentThat(options, (core, event, nowMs) =>
      event.type === 'pin' || event.type === 'unpin' ? [] : core.step(event, nowMs),
    ),
}

export const directoryTrusted: PlantedBug = {
  name: 'directory-trusted',
  what: 'blocks that the directory promised are taken for present though they never came',
  agent: (options) => {
    const promised = new Map<number, number>()
    return agentThat(options, (core, event, nowMs) => {
      if (event.type === 'prefill' || event.type === 'decode') promised.set(event.sequence, event.fetchTokens)
      if (event.type !== 'fetched') return core.step(event, nowMs)
      return core.step({ ...event, tokens: promised.get(event.sequence) ?? event.tokens }, nowMs)
    })
  },
}

/** The slot is taken by a lease of nobody, which is kept alive. */
export const leakedSlot: PlantedBug = {
  name: 'leaked-slot',
  what: 'a decode slot is not given back where a stop token ends the sequence',
  agent: (options) => {
    const { deviceId, incarnation } = options
    const leaked: bigint[] = []
    return agentThat(options, (core, event, nowMs) => {
      const actions = core.step(event, nowMs)
      const extra: CoreEvent[] = leaked.map((counter) => {
        return { type: 'extend', lease: { deviceId, incarnation, counter }, tokens: 1 }
      })
      if (actions.some((action) => action.type === 'sequence-ended' && action.reason === 'stop')) {
        const requestId = `nobody ${leaked.length}`
        extra.push({ type: 'reserve', requestId, epoch: 1, tokens: 1, hashes: [], purpose: 'decode' })
      }
      for (const one of extra) {
        for (const action of core.step(one, nowMs)) {
          if (action.type === 'granted' && one.type === 'reserve') leaked.push(action.counter)
          if (action.type !== 'granted' && action.type !== 'refused') actions.push(action)
        }
      }
      return actions
    })
  },
}

function without(actions: readonly CoreAction[], type: CoreAction['type']): CoreAction[] {
  return actions.filter((action) => action.type !== type)
}
