/** What happened in a run, as lines that a person reads: time, who, what it was told, what it answered. */
import type { CoreAction, CoreEvent } from '@kvasir/agent/core/events'
import { hashCount } from '@kvasir/coordinator/core/block-hashes'
import type { CoordinatorAction, CoordinatorEvent } from '@kvasir/coordinator/core/protocol'

export interface HistoryLine {
  readonly atMs: number
  /** coordinator, a device, or fault. */
  readonly who: string
  /** `<` what it was told, `>` what it answered. */
  readonly what: string
}

interface Line extends HistoryLine {
  /** Request and device that it is about. */
  readonly about: readonly string[]
}

const LINES_MAX = 50_000

export class History {
  readonly #lines: Line[] = []

  say(atMs: number, who: string, what: string, about: readonly string[] = []): void {
    if (this.#lines.length < LINES_MAX) this.#lines.push({ atMs, who, what, about })
  }

  coordinator(event: CoordinatorEvent, actions: readonly CoordinatorAction[], atMs: number): void {
    const isSilent = actions.length === 0
    if (isSilent && (event.type === 'tick' || event.type === 'load' || event.type === 'completed')) return
    this.say(atMs, 'coordinator', `< ${coordinatorEventText(event)}`, aboutOf(event))
    for (const action of actions) {
      this.say(atMs, 'coordinator', `> ${coordinatorActionText(action)}`, aboutOf(action))
    }
  }

  agent(
    deviceId: string,
    event: CoreEvent,
    actions: readonly CoreAction[],
    atMs: number,
    names: Names,
  ): void {
    if (actions.length === 0 && event.type === 'tick') return
    this.say(atMs, deviceId, `< ${agentEventText(event, names)}`, aboutAgent(event, names))
    for (const action of actions) {
      this.say(atMs, deviceId, `> ${agentActionText(action, names)}`, aboutAgent(action, names))
    }
  }

  all(): readonly HistoryLine[] {
    return this.#lines
  }

  /** The last lines about any of these, with what befell the cluster. */
  about(whom: readonly string[], linesMax: number): readonly HistoryLine[] {
    const wanted = new Set([...whom, 'fault', 'VIOLATION'])
    return this.#lines
      .filter(({ who, about }) => wanted.has(who) || about.some((one) => wanted.has(one)))
      .slice(-linesMax)
  }
}

/** Whose sequence it is. */
export type Names = (sequence: number) => string

function coordinatorEventText(event: CoordinatorEvent): string {
  switch (event.type) {
    case 'advertised':
      return `advertised ${event.device.deviceId}, life ${event.device.incarnation}`
    case 'load':
      return `load report ${event.load.sequence} of ${event.load.deviceId}`
    case 'health':
      return `health of ${event.device.deviceId}: ${event.ok ? 'ok' : 'no answer'}`
    case 'submit':
      return `submit ${event.requestId}: ${event.promptTokens} prompt tokens, at most ${event.maxTokens} new`
    case 'kv':
      return `kv event ${event.change.sequence} of ${event.change.deviceId}: ${hashCount(event.change.stored)} stored, ${hashCount(event.change.removed)} removed`
    case 'kv-snapshot':
      return `snapshot of ${event.device.deviceId}${event.snapshot ? ` after event ${event.snapshot.sequence}` : ': none'}`
    case 'kv-missed':
      return `${hashCount(event.hashes)} blocks missed on ${event.device.deviceId}`
    case 'bus':
      return `bus ${event.connected ? 'up' : 'down'}`
    case 'tick':
    case 'completed':
      return event.type
    case 'withdrawn':
      return `withdrawn ${event.deviceId}`
    case 'cancel':
      return `cancel ${event.requestId}`
    case 'call-failed':
      return `${event.call} of ${event.requestId}.${event.epoch} failed: ${event.deviceId} ${event.fault}`
    case 'tokens':
      return `tokens ${event.firstIndex} … ${event.firstIndex + event.count - 1} of ${event.requestId}.${event.epoch}`
    case 'decode-finished':
      return `decode-finished (${event.reason}) of ${event.requestId}.${event.epoch}`
    case 'prefill-finished':
      return `prefill-finished${event.stopped ? ' (stopped)' : ''} of ${event.requestId}.${event.epoch}`
    default:
      return `${event.type} of ${event.requestId}.${event.epoch}`
  }
}

function coordinatorActionText(action: CoordinatorAction): string {
  switch (action.type) {
    case 'reserve': {
      const { prefill, decode } = action.decision
      const ref = (device: { readonly deviceId: string; readonly incarnation: string }) =>
        `${device.deviceId} (life ${device.incarnation})`
      return `reserve ${action.requestId}.${action.epoch}: ${action.tokens} tokens, prefill ${ref(prefill)}, decode ${ref(decode)}`
    }
    case 'run':
      return `run ${action.requestId}.${action.epoch} from token ${action.firstIndex}`
    case 'emit':
      return `emit tokens ${action.from} … ${action.from + action.count - 1} of ${action.requestId}`
    case 'abandon':
      return `abandon ${action.requestId}.${action.epoch}: ${action.cause}`
    case 'requeue':
      return `requeue ${action.requestId}: ${action.cause}`
    case 'finish':
      return `finish ${action.requestId} (${action.reason})`
    case 'fail':
      return `fail ${action.requestId} (${action.code}): ${action.message}`
    case 'cancelled':
      return `cancelled ${action.requestId}`
    default:
      return `${action.type} ${action.device.deviceId}`
  }
}

function agentEventText(event: CoreEvent, names: Names): string {
  switch (event.type) {
    case 'reserve':
      return `reserve ${event.requestId}.${event.epoch}: ${event.tokens} tokens`
    case 'release':
      return `release lease ${event.lease.counter}`
    case 'prefill':
      return `prefill ${event.requestId}.${event.epoch}: ${event.promptTokens} tokens`
    case 'decode':
      return `decode ${event.requestId}.${event.epoch} under lease ${event.lease.counter}, KV ${event.kv}, from token ${event.firstIndex}`
    case 'fetched':
      return `fetched ${event.tokens} tokens of ${names(event.sequence)}`
    case 'end':
      return `end ${names(event.sequence)} (${event.cause})`
    case 'received':
    case 'sent':
      return `${event.type} ${names(event.sequence)}`
    case 'pin':
    case 'unpin':
      return `${event.type} lease ${event.counter}`
    case 'lend':
      return `lend ${event.hashes.length} blocks`
    case 'return':
      return `return loan ${event.loan}`
    case 'step-finished':
      return `step finished${event.cancelled ? ' (cancelled)' : (event.steps ?? 1) > 1 ? ` (${event.steps} steps)` : ''}`
    default:
      return event.type
  }
}

function agentActionText(action: CoreAction, names: Names): string {
  switch (action.type) {
    case 'granted':
      return `granted lease ${action.counter}, ${action.cachedTokens} tokens cached`
    case 'refused':
      return `refused: ${action.reason}`
    case 'admitted':
      return `admitted ${names(action.sequence)} under lease ${action.counter}: ${action.cachedTokens} tokens cached, blocks ${action.blocks.join(' ')}`
    case 'attached':
      return `attached ${names(action.sequence)}: ${action.cachedTokens} tokens cached, blocks ${action.blocks.join(' ')}`
    case 'lent':
      return action.loan === 0
        ? 'lent nothing'
        : `lent blocks ${action.blocks.join(' ')} (loan ${action.loan})`
    case 'demote':
      return `evict blocks ${action.blocks.map(({ block }) => block).join(' ')}`
    case 'copy':
      return `move blocks ${action.from.join(' ')} to ${action.to.join(' ')}`
    case 'kv-changed':
      return `${action.stored.length} blocks stored, ${action.removed.length} removed`
    case 'run-step':
      return `run ${action.parts.map(({ sequence, role, start, count }) => `${role} ${names(sequence)} ${start}+${count}`).join(', ')}`
    case 'sequence-ended':
      return `sequence of ${names(action.sequence)} ended (${action.reason})`
    case 'lease-ended':
      return `lease ${action.counter} ended`
    default:
      return action.type
  }
}

function aboutOf(what: CoordinatorEvent | CoordinatorAction): string[] {
  if ('requestId' in what) return [what.requestId]
  if ('device' in what) return [what.device.deviceId]
  return []
}

function aboutAgent(what: CoreEvent | CoreAction, names: Names): string[] {
  if ('requestId' in what) return [what.requestId]
  if ('sequence' in what) return [names(what.sequence).split('.')[0] ?? '']
  return []
}
