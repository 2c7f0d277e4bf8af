/** Mistakes of the coordinator. */
import { CoordinatorCore } from '@kvasir/coordinator/core/coordinator-core'
import type { LoadFacts } from '@kvasir/coordinator/core/facts'
import { coordinatorThat, type PlantedBug } from './planted-bug.js'

export const doubledEmit: PlantedBug = {
  name: 'doubled-emit',
  what: 'after a request was moved its client gets a token twice',
  coordinator: (limits) =>
    coordinatorThat(limits, (core, event, nowMs) => {
      const actions = core.step(event, nowMs)
      if (event.type !== 'tokens' || event.epoch === 1) return actions
      const emits = actions.filter(({ type }) => type === 'emit')
      return [...emits, ...actions]
    }),
}

/** Its last report is heard again and again. */
export const lostDeviceChosen: PlantedBug = {
  name: 'lost-device-chosen',
  what: 'a device that has fallen silent goes on to be thought alive',
  coordinator: (limits) => {
    const last = new Map<string, LoadFacts>()
    return coordinatorThat(limits, (core, event, nowMs) => {
      if (event.type === 'load') last.set(event.load.deviceId, event.load)
      if (event.type !== 'tick') return core.step(event, nowMs)
      const actions = [...last].flatMap(([deviceId, load]) => {
        const again = { ...load, sequence: load.sequence + 1 / 1_024 }
        last.set(deviceId, again)
        return core.step({ type: 'load', load: again }, nowMs)
      })
      return [...actions, ...core.step(event, nowMs)]
    })
  },
}

export const epochNotFenced: PlantedBug = {
  name: 'epoch-not-fenced',
  what: 'what an epoch that is over says is taken for news of the one in force',
  coordinator: (limits) => {
    const inForce = new Map<string, number>()
    return coordinatorThat(limits, (core, event, nowMs) => {
      const epoch = 'epoch' in event ? inForce.get(event.requestId) : undefined
      const actions =
        'epoch' in event && epoch !== undefined
          ? core.step({ ...event, epoch }, nowMs)
          : core.step(event, nowMs)
      for (const action of actions) if (action.type === 'reserve') inForce.set(action.requestId, action.epoch)
      return actions
    })
  },
}

export const deadlineNotArmed: PlantedBug = {
  name: 'deadline-not-armed',
  what: 'a request may wait and live for ever',
  coordinator: (limits) => {
    const forever = Number.MAX_SAFE_INTEGER
    return new CoordinatorCore({ ...limits, placementDeadlineMs: forever, requestDeadlineMs: forever })
  },
}

export const queueUnbounded: PlantedBug = {
  name: 'queue-unbounded',
  what: 'any number of requests may wait',
  coordinator: (limits) => new CoordinatorCore({ ...limits, queuedMax: Number.MAX_SAFE_INTEGER }),
}

export const kvOutOfTurn: PlantedBug = {
  name: 'kv-out-of-turn',
  what: 'events of a device take effect though others before them are missing, which nobody notices',
  coordinator: (limits) => {
    const counts = new Map<string, number>()
    return coordinatorThat(limits, (core, event, nowMs) => {
      if (event.type === 'kv-snapshot' && event.snapshot) {
        counts.set(`${event.device.deviceId} ${event.device.incarnation}`, event.snapshot.sequence)
      }
      if (event.type === 'load') {
        const { kvSequence: _, ...load } = event.load
        return core.step({ type: 'load', load }, nowMs)
      }
      if (event.type !== 'kv') return core.step(event, nowMs)
      const { deviceId, incarnation } = event.change
      const sequence = (counts.get(`${deviceId} ${incarnation}`) ?? 0) + 1
      counts.set(`${deviceId} ${incarnation}`, sequence)
      return core.step({ ...event, change: { ...event.change, sequence } }, nowMs)
    })
  },
}
