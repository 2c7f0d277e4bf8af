/**
 * Cores with a mistake in them, by which the study is judged: it must find each. A mistake is planted around a core, in
 * what it is told, in what it answers or in how it is made; the cores themselves know nothing of it.
 */
import { AgentCore } from '@kvasir/agent/core/agent-core'
import type { CoreOptions } from '@kvasir/agent/core/core-options'
import type { CoreAction, CoreEvent } from '@kvasir/agent/core/events'
import { CoordinatorCore } from '@kvasir/coordinator/core/coordinator-core'
import type { CoordinatorAction, CoordinatorEvent } from '@kvasir/coordinator/core/protocol'
import type { RequestLimits } from '@kvasir/coordinator/core/request-machine'
import type { AnyAgentCore, AnyCoordinatorCore } from '../cluster/world.js'
import type { Plant } from './run-case.js'

export interface PlantedBug extends Plant {
  /** Such as doubled-emit. */
  readonly name: string
  /** What is wrong, as one clause. */
  readonly what: string
}

type AgentStep = (core: AgentCore, event: CoreEvent, nowMs: number) => CoreAction[]
type CoordinatorStep = (
  core: CoordinatorCore,
  event: CoordinatorEvent,
  nowMs: number,
) => readonly CoordinatorAction[]

/** An agent's core that steps in another way; `makeStep` is called for each life. */
export function agentThat(options: CoreOptions, step: AgentStep): AnyAgentCore {
  const core = new AgentCore(options)
  return {
    step: (event, nowMs) => step(core, event, nowMs),
    load: () => core.load(),
    blocks: (counter) => core.blocks(counter),
    storedHashes: () => core.storedHashes(),
  }
}

export function coordinatorThat(limits: RequestLimits, step: CoordinatorStep): AnyCoordinatorCore {
  const core = new CoordinatorCore(limits)
  const { view, directory, follower } = core
  return {
    step: (event, nowMs) => step(core, event, nowMs),
    ...{ view, directory, follower },
    get queuedCount() {
      return core.queuedCount
    },
    get activeCount() {
      return core.activeCount
    },
  }
}
